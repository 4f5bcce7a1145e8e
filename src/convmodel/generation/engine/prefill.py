"""Prompts that wait and prompts that are being read.

Owns: whose prompt is read next, in pieces, so that a long one keeps neither short ones nor responses in work waiting.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from convmodel.generation.engine.kv_cache import KVCache
from convmodel.generation.engine.prefix_cache import PrefixCache
from convmodel.generation.engine.request import Request, Row

if TYPE_CHECKING:
    import torch

ROOM = 256
"""Positions that a response finds at first; it gets more where it needs them."""

Read = Callable[[Request, KVCache, slice], "torch.Tensor"]
"""Reads a piece of a request's prompt; returns the logits at its last token, (1, vocabulary)."""


@dataclass(frozen=True, slots=True)
class Steps:
    """What reading prompts needs of the engine.

    Attributes:
        layers: How many layers a cache has.
        read: Computes.
        has_room: Tells whether one more request may begin.
        finish: Takes a request whose prompt has been read to its end, its cache, and the logits there.
    """

    layers: int
    read: Read
    has_room: Callable[[Request], bool]
    finish: Callable[[Request, KVCache, "torch.Tensor"], None]


class Prompts:
    """Requests in the order in which they came, until their prompts have been read.

    Attributes:
        waiting: Those that have not begun.
        reading: Those that have, with what has been read of them.
    """

    def __init__(self, caches: PrefixCache) -> None:
        self.waiting: deque[Request] = deque()
        self.reading: list[tuple[Request, KVCache]] = []
        self._caches = caches
        self._oldest = False

    @property
    def rows(self) -> list[Row]:
        """The responses to those that have begun."""
        return [row for request, _ in self.reading for row in request.rows]

    def read(self, most: int, steps: Steps) -> bool:
        """Reads prompts, up to some number of tokens.

        Returns:
            Whether there was anything to read.
        """
        left = most
        while left > 0:
            self._admit(steps)
            if not self.reading:
                break
            request, cache = reading = self._pick()
            before = cache.length
            try:
                logits = steps.read(request, cache, slice(before, before + left))
                left -= cache.length - before
                if cache.length == len(request.ids):
                    steps.finish(request, cache, logits)
                    self.reading.remove(reading)
            except Exception as error:
                self.reading.remove(reading)
                request.error = error
            except BaseException:  # Ctrl-C, maybe between two layers
                cache.keep(before)
                raise
        return left < most

    def leave(self, remember: Callable[[Request, KVCache], None]) -> None:
        """Lets go of requests that are over; what was read of them is handed to `remember`."""
        for request, cache in [each for each in self.reading if each[0].done]:
            self.reading.remove((request, cache))
            remember(request, cache)
        for request in [each for each in self.waiting if each.done]:
            self.waiting.remove(request)

    def _pick(self) -> tuple[Request, KVCache]:
        """Takes the oldest and the one with the least left in turn: neither long ones nor short ones starve."""
        self._oldest = not self._oldest
        least = min(self.reading, key=lambda each: len(each[0].ids) - each[1].length)
        return self.reading[0] if self._oldest else least

    def _admit(self, steps: Steps) -> None:
        """Lets requests that wait begin, in order, as long as there is room."""
        while self.waiting and steps.has_room(self.waiting[0]):
            request, cache = self.waiting[0], None
            if not request.done:
                room = len(request.ids) + min(request.max_new_tokens, ROOM)
                try:
                    cache = self._caches.take(request.ids, request.types, room=room) or KVCache(steps.layers, room=room)
                    request.cached_tokens = cache.length
                except Exception as error:
                    request.error = error
            # Not before, so that Ctrl-C loses no request of another thread.
            self.waiting.popleft()
            if cache is not None and request.error is None:
                request.begun_at = time.monotonic()
                self.reading.append((request, cache))
