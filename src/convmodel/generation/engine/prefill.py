"""Chunked prefill: prompts that wait, and prompts that are being processed.

Owns: which prompt is processed next, in chunks, so that a long one delays neither short ones nor active responses.
"""

import time
from collections import deque

from convmodel.generation.engine.kv_cache import KVCache
from convmodel.generation.engine.prefix_cache import PrefixCache
from convmodel.generation.engine.request import Request
from convmodel.generation.engine.runner import Runner

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
        """Processes at most `limit` tokens of one prompt; returns how many.

        The oldest prompt and the one with the fewest tokens left take turns, so that neither long nor short prompts
        starve.
        """
        self._oldest_next = not self._oldest_next
        request = self.unread[0] if self._oldest_next else min(self.unread, key=_unread_tokens)
        cache = request.cache
        assert cache is not None
        begin = cache.length
        chunk = slice(begin, begin + limit)
        try:
            logits = runner.read([request.ids[chunk]], [request.types[chunk]], cache)
            if not _unread_tokens(request):
                # Without rows that had their first token when Ctrl-C came.
                if rows := [row for row in request.rows if row.live and not row.tokens]:
                    runner.choose(rows, logits.expand(len(rows), -1))
                request.prefilled = True
        except Exception as error:
            self.started.remove(request)
            request.cache, request.error = None, error
        except BaseException:  # Ctrl-C, maybe between two layers
            cache.keep(begin)
            raise
        return cache.length - begin

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
