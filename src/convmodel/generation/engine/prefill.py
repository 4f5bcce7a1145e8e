"""Chunked prefill: prompts that wait, and prompts that are being processed.

Owns: which prompts are processed next, in chunks, so that a long one delays neither short ones nor active responses.
"""

import time
from collections import deque
from collections.abc import Mapping

from convmodel.generation.engine.kv_cache import KVCache
from convmodel.generation.engine.prefix_cache import PrefixCache
from convmodel.generation.engine.request import Request
from convmodel.generation.engine.runner import Part, Runner

ROOM = 256
"""Positions reserved for a response at first; the KV cache grows when it needs more."""


class Prefill:
    """Requests in the order of their arrival, until they join a batch.

    Attributes:
        waiting: Requests that have not started.
        started: Requests whose prefill has begun, until they join a batch.
    """

    def __init__(self, caches: PrefixCache) -> None:
        self.waiting: deque[Request] = deque()
        self.started: list[Request] = []
        self._caches = caches
        self._oldest_next = False

    @property
    def unread(self) -> list[Request]:
        """Started requests whose prompts have not been processed completely."""
        return [request for request in self.started if not request.prefilled]

    def start_next(self, runner: Runner) -> None:
        """Starts the request that has waited longest, with the longest cached prefix of its prompt."""
        request = self.waiting[0]
        if not request.done:
            room = len(request.ids) + min(request.max_new_tokens, ROOM)
            try:
                ends = request.stop_ids if request.whole_turns else ()
                cached = self._caches.take(request.ids, request.types, room=room, scope=request.scope, ends=ends)
                request.cache = cached or KVCache(runner.forward.layers, room=room)
                request.cached_tokens = request.cache.length
            except Exception as error:
                request.error = error
        self.waiting.popleft()  # last, so that Ctrl-C does not lose a request of another thread
        if not request.done:
            request.begun_at = time.monotonic()
            self.started.append(request)

    def read(self, runner: Runner, limit: int) -> int:
        """Processes at most `limit` tokens of prompts, in one forward pass; returns how many.

        The oldest prompt and the one with the fewest tokens left take turns, so that neither long nor short prompts
        starve. An error ends only the request that it comes from.
        """
        chunks, total, left = {}, 0, self.unread
        while left and total < limit:
            self._oldest_next = not self._oldest_next
            request = left[0] if self._oldest_next else min(left, key=_unread_tokens)
            left.remove(request)
            chunks[request] = min(_unread_tokens(request), limit - total)
            total += chunks[request]
        try:
            _process(runner, chunks)
        except Exception:
            for request, size in chunks.items():  # again, one by one
                try:
                    _process(runner, {request: size})
                except Exception as error:
                    self.started.remove(request)
                    request.cache, request.error = None, error
        return total

    def pop_done(self) -> list[Request]:
        """Removes the requests that are done; returns those that had started."""
        done = [request for request in self.started if request.done]
        self.started = [request for request in self.started if not request.done]
        for request in [*self.waiting]:  # a copy, since other threads add to it
            if request.done:
                self.waiting.remove(request)
        return done


def _unread_tokens(request: Request) -> int:
    assert request.cache is not None
    return len(request.ids) - request.cache.length


def _process(runner: Runner, chunks: Mapping[Request, int]) -> None:
    """Processes the given number of tokens of each prompt, and chooses the first token of responses after the last."""
    caches = [request.cache for request in chunks if request.cache]
    begins = [cache.length for cache in caches]
    parts = [
        Part([request.ids[begin : begin + size]], [request.types[begin : begin + size]], cache)
        for (request, size), begin, cache in zip(chunks.items(), begins, caches, strict=True)
    ]
    try:
        logits = runner.read(parts)
        finished = [request for request in chunks if not _unread_tokens(request)]
        # Without rows that had their first token when Ctrl-C came.
        rows = [row for request in finished for row in request.rows if row.live and not row.tokens]
        if rows:
            places = {request: number for number, request in enumerate(chunks)}
            runner.choose(rows, logits[[places[row.request] for row in rows]])
        for request in finished:
            request.prefilled = True
    except BaseException:
        for cache, begin in zip(caches, begins, strict=True):
            cache.keep(begin)
        raise
