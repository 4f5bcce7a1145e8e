"""Responses that decode together: rows of one cache, padded on the left to the longest.

Owns: how rows join with the least copying, and how they leave. Which requests share a batch is the engine's decision.
"""

from collections.abc import Sequence

from convmodel.generation.engine.kv_cache import KVCache
from convmodel.generation.engine.request import Request, Row
from convmodel.generation.engine.runner import Runner

_SLACK = 64
"""Leading positions that no row uses any more, up to which new rows are placed without moving the others."""


class Batch:
    """Rows that decode together; they join and leave between steps."""

    def __init__(self) -> None:
        self._rows: list[Row | None] = []  # None where a row of the cache is unused
        self._cache: KVCache | None = None

    @property
    def rows(self) -> list[Row]:
        """The active responses."""
        return [row for row in self._rows if row]

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
        unused = [i for i, row in enumerate(self._rows) if row is None]
        longest = max([*self._lengths(), *(cache.length for cache in caches)])
        if self._cache and len(rows) <= len(unused) and 0 <= self._cache.length - longest <= _SLACK:
            filled = [*self._rows]
            for row, cache in zip(rows, caches, strict=True):
                place = unused.pop()
                self._cache.place(place, cache)
                filled[place] = row
            self._rows = filled
            return
        parts = [(cache, [0] * len(request.rows)) for request, cache in prefilled]
        if self._cache and (active := self._active()):
            parts.insert(0, (self._cache, active))
        self._cache, self._rows = KVCache.merge(parts), [*self.rows, *rows]

    def step(self, runner: Runner) -> None:
        """Decodes one token of each response; an error ends all responses, Ctrl-C none."""
        if self._cache is None:
            return
        length = self._cache.length
        try:
            logits = runner.read(
                [[row.tokens[-1]] if row else [] for row in self._rows],
                [row.request.types[-1:] if row else [] for row in self._rows],
                self._cache,
            )
            runner.choose(self.rows, logits[self._active()])
        except Exception as error:
            for row in self.rows:
                row.request.error = error
            self._rows, self._cache = [], None
        except BaseException:
            self._cache.keep(length)
            raise

    def pop_done(self) -> list[tuple[Row, KVCache]]:
        """Removes the responses that have ended.

        Returns:
            Those whose keys and values the prefix cache should keep, each with a cache of one row.
        """
        kept = []
        for number, row in enumerate(self._rows):
            if row and self._cache and not row.live:
                self._rows[number] = None
                if len(row.request.rows) == 1 and row.request.remember and row.request.error is None:
                    kept.append((row, KVCache.merge([(self._cache, [number])])))
        active = self._active()
        if not active:
            self._rows, self._cache = [], None
        elif self._cache and len(active) <= len(self._rows) // 2:
            self._cache = KVCache.merge([(self._cache, active)])
            self._rows = [self._rows[i] for i in active]
        return kept

    def _active(self) -> list[int]:
        return [i for i, row in enumerate(self._rows) if row]

    def _lengths(self) -> list[int]:
        cache = self._cache
        return [] if cache is None else [cache.length - cache.starts[i] for i in self._active()]
