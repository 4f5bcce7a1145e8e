"""Responses that take their steps together: rows of one cache, padded on the left to the longest.

Owns: joining where it copies the least, and leaving. Which requests come together is the engine's.
"""

from collections.abc import Callable, Sequence

import torch

from convmodel.generation.engine.kv_cache import KVCache
from convmodel.generation.engine.request import Request, Row

_SLACK = 64
"""Positions that no row uses, which are put up with before all rows are moved."""

Read = Callable[[list[list[int]], list[list[int]], KVCache, list[bool]], torch.Tensor]
"""Reads the next ids and types of each row of a cache, of which some are live; returns logits, (rows, vocabulary)."""


class Batch:
    """Rows that go on together; they join and leave between steps."""

    def __init__(self) -> None:
        self._rows: list[Row | None] = []  # None where a row of the cache is of no more use
        self._cache: KVCache | None = None

    @property
    def rows(self) -> list[Row]:
        """Those that go on."""
        return [row for row in self._rows if row]

    def padding(self, joining: Sequence[int] = ()) -> int:
        """Counts the positions that would be padding if sequences of some lengths joined."""
        lengths = [*self._lengths(), *joining]
        return len(lengths) * max(lengths) - sum(lengths)

    def join(self, joining: Sequence[tuple[Request, KVCache]]) -> None:
        """Takes the rows of requests whose prompts have been read; where rows have ended, in their places.

        Either all join or, if it raises, none.
        """
        longest = max(cache.length for _, cache in joining)
        free = [i for i, row in enumerate(self._rows) if row is None]
        count = sum(len(request.rows) for request, _ in joining)
        length = self._cache.length if self._cache else 0
        if self._cache and count <= len(free) and 0 <= length - max(longest, *self._lengths(), 0) <= _SLACK:
            rows = [*self._rows]
            for request, cache in joining:
                for row in request.rows:
                    place = free.pop()
                    self._cache.place(place, cache)
                    rows[place] = row
            self._rows = rows
            return
        parts = [(cache, [0] * len(request.rows)) for request, cache in joining]
        if self._cache and (live := self._live()):
            parts.insert(0, (self._cache, live))
        self._cache, self._rows = (
            KVCache.merge(parts),
            [*self.rows, *(row for request, _ in joining for row in request.rows)],
        )

    def step(self, read: Read, choose: Callable[[list[Row], torch.Tensor], None]) -> None:
        """Lets all go on by one token; an error ends all, an interruption none.

        Args:
            read: What computes the logits.
            choose: What chooses the next token of each row.
        """
        if self._cache is None:
            return
        before = self._cache.length
        try:
            logits = read(
                [[row.tokens[-1] if row else 0] for row in self._rows],
                [row.request.types[-1:] if row else [] for row in self._rows],
                self._cache,
                [row is not None for row in self._rows],
            )
            choose(self.rows, logits[self._live()])
        except Exception as error:
            for row in self.rows:
                row.request.error = error
            self._rows, self._cache = [], None
        except BaseException:
            self._cache.keep(before)
            raise

    def leave(self, remember: Callable[[Row, KVCache], None]) -> None:
        """Lets go of rows that have ended; what one computed is handed to `remember`, if that is asked for."""
        if self._cache is None:
            return
        for number, row in enumerate(self._rows):
            if row and not row.live:
                self._rows[number] = None
                if len(row.request.rows) == 1 and row.request.remember and row.request.error is None:
                    remember(row, KVCache.merge([(self._cache, [number])]))
        live = self._live()
        if not live:
            self._rows, self._cache = [], None
        elif len(live) <= len(self._rows) // 2:
            self._cache = KVCache.merge([(self._cache, live)])
            self._rows = [self._rows[i] for i in live]

    def _live(self) -> list[int]:
        return [i for i, row in enumerate(self._rows) if row]

    def _lengths(self) -> list[int]:
        cache = self._cache
        return [] if cache is None else [cache.length - cache.starts[i] for i in self._live()]
