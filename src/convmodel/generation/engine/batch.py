"""Responses that decode together: rows of one cache, padded on the left to the longest.

Owns: how rows join with the least copying, and how they leave. Which requests share a batch is the engine's decision.
"""

from collections.abc import Sequence

from convmodel.generation.engine.kv_cache import KVCache
from convmodel.generation.engine.request import Request, Row
from convmodel.generation.engine.runner import Part, Runner

_SLACK = 64
"""Leading positions that no row uses any more, up to which new rows are placed without moving the others."""


class Batch:
    """Rows that decode together; they join and leave between steps.

    Attributes:
        places: The response of each row of the cache; None where a row is unused.
        cache: The keys and values of the tokens before the newest ones; None if there are no rows.
    """

    def __init__(self, positions: int | None = None) -> None:
        """Creates an empty batch.

        Args:
            positions: How many the model has, if that is known: some (GPT-Neo, MPT) compute no more keys, padding
                included.
        """
        self._positions = positions
        self.places: list[Row | None] = []
        self.cache: KVCache | None = None

    @property
    def rows(self) -> list[Row]:
        """The active responses."""
        return [row for row in self.places if row]

    def padding(self, joining: Sequence[int] = ()) -> int:
        """Returns how many positions would be padding if sequences of these lengths joined."""
        lengths = [*self._lengths(), *joining]
        return len(lengths) * max(lengths) - sum(lengths)

    def join(self, prefilled: Sequence[tuple[Request, KVCache]]) -> None:
        """Adds the responses to processed prompts, in unused rows if they fit.

        Either all join or, if it raises, none.
        """
        rows = [row for request, _ in prefilled for row in request.rows]
        caches = [cache for request, cache in prefilled for _ in request.rows]
        unused = [i for i, row in enumerate(self.places) if row is None]
        longest = max([*self._lengths(), *(cache.length for cache in caches)])
        if self.cache and len(rows) <= len(unused) and 0 <= self.cache.length - longest <= _SLACK:
            filled = [*self.places]
            for row, cache in zip(rows, caches, strict=True):
                place = unused.pop()
                self.cache.place(place, cache)
                filled[place] = row
            self.places = filled
            return
        parts = [(cache, [0] * len(request.rows)) for request, cache in prefilled]
        if self.cache and (active := self._active()):
            parts.insert(0, (self.cache, active))
        self.cache, self.places = KVCache.merge(parts), [*self.rows, *rows]

    def next_part(self) -> Part:
        """Returns the newest token of each row."""
        assert self.cache is not None
        ids = [[row.tokens[-1]] if row else [] for row in self.places]
        return Part(ids, [row.request.types[-1:] if row else [] for row in self.places], self.cache)

    def fail(self, error: Exception) -> None:
        """Ends all responses with an error."""
        for row in self.rows:
            row.request.error = error
        self.places, self.cache = [], None

    def pop_done(self) -> list[tuple[Row, KVCache]]:
        """Removes the responses that have ended.

        Returns:
            Those whose keys and values the prefix cache should keep, each with a cache of one row.
        """
        kept = []
        for number, row in enumerate(self.places):
            if row and self.cache and not row.live:
                self.places[number] = None
                if len(row.request.rows) == 1 and row.request.remember and row.request.error is None:
                    kept.append((row, KVCache.merge([(self.cache, [number])])))
        active = self._active()
        if not active:
            self.places, self.cache = [], None
        elif self.cache and (len(active) <= len(self.places) // 2 or self._is_full(active)):
            self.cache = KVCache.merge([(self.cache, active)])
            self.places = [self.places[i] for i in active]
        return kept

    def _is_full(self, active: Sequence[int]) -> bool:
        """Returns whether no position is left, although each sequence has some left."""
        cache = self.cache
        if cache is None or self._positions is None or cache.length < self._positions:
            return False
        return all(cache.starts[row] > 0 for row in active)

    def _active(self) -> list[int]:
        return [i for i, row in enumerate(self.places) if row]

    def _lengths(self) -> list[int]:
        cache = self.cache
        return [] if cache is None else [cache.length - cache.starts[i] for i in self._active()]


def decode(batches: Sequence[Batch], runner: Runner) -> None:
    """Decodes one token of each response of some batches, in one forward pass.

    An error ends the responses of the batch that it comes from, Ctrl-C none.
    """
    caches = {batch: batch.cache for batch in batches if batch.cache}
    lengths = [cache.length for cache in caches.values()]
    if not caches:
        return
    try:
        logits = runner.read([batch.next_part() for batch in caches])
        rows = [row for batch in caches for row in batch.places]
        active = [number for number, row in enumerate(rows) if row]
        runner.choose([row for row in rows if row], logits[active])
    except BaseException as error:
        for cache, length in zip(caches.values(), lengths, strict=True):
            cache.keep(length)
        if not isinstance(error, Exception):
            raise
        if len(caches) == 1:
            [batch] = caches
            batch.fail(error)
        else:
            for batch in caches:  # again, one by one
                decode([batch], runner)
