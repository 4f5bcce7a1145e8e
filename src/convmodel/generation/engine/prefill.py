"""Prompts that wait, and prompts that are being read.

Owns: which prompt is read next, in pieces, so that a long one delays neither short ones nor active responses.
"""

import time
from collections import deque
from dataclasses import dataclass

from convmodel.generation.engine.kv_cache import KVCache
from convmodel.generation.engine.prefix_cache import PrefixCache
from convmodel.generation.engine.request import Request
from convmodel.generation.engine.runner import Runner

ROOM = 256
"""Positions reserved for a response at first; its cache grows when it needs more."""


@dataclass(slots=True, eq=False)
class Prompt:
    """A prompt that is being read, or has been read and waits to join a batch.

    Attributes:
        request: Whose prompt it is.
        cache: The keys and values of the tokens read so far.
        ready: Whether all of it has been read and the first token of each response chosen.
    """

    request: Request
    cache: KVCache
    ready: bool = False

    @property
    def left(self) -> int:
        """How many tokens have not been read."""
        return len(self.request.ids) - self.cache.length


class Prefill:
    """Requests in the order of their arrival, until they join a batch.

    Attributes:
        waiting: Requests that have not started.
        prompts: The prompts of those that have.
    """

    def __init__(self, caches: PrefixCache) -> None:
        self.waiting: deque[Request] = deque()
        self.prompts: list[Prompt] = []
        self._caches = caches
        self._oldest_next = False

    @property
    def ready(self) -> list[Prompt]:
        """Prompts that have been read and may join a batch."""
        return [prompt for prompt in self.prompts if prompt.ready]

    @property
    def unread(self) -> list[Prompt]:
        """Prompts that are being read."""
        return [prompt for prompt in self.prompts if not prompt.ready]

    def start_next(self, runner: Runner) -> None:
        """Starts the request that has waited longest, with what the prefix cache has of its prompt."""
        request, cache = self.waiting[0], None
        if not request.done:
            room = len(request.ids) + min(request.max_new_tokens, ROOM)
            try:
                cache = self._caches.take(request.ids, request.types, room=room) or runner.new_cache(room)
                request.cached_tokens = cache.length
            except Exception as error:
                request.error = error
        self.waiting.popleft()  # last, so that Ctrl-C loses no request of another thread
        if cache is not None and request.error is None:
            request.begun_at = time.monotonic()
            self.prompts.append(Prompt(request, cache))

    def read(self, runner: Runner, limit: int) -> int:
        """Reads a piece of one prompt: of the oldest and of the one nearest to its end in turn, so that none starves.

        Args:
            runner: Runs the model.
            limit: The largest number of tokens.

        Returns:
            How many tokens were read.
        """
        self._oldest_next = not self._oldest_next
        prompt = self.unread[0] if self._oldest_next else min(self.unread, key=lambda prompt: prompt.left)
        request, cache, before = prompt.request, prompt.cache, prompt.cache.length
        piece = slice(before, before + limit)
        try:
            logits = runner.read([request.ids[piece]], [request.types[piece]], cache)
            if not prompt.left:
                runner.choose(request.rows, logits.expand(len(request.rows), -1))
                prompt.ready = True
        except Exception as error:
            self.prompts.remove(prompt)
            request.error = error
        except BaseException:  # Ctrl-C, maybe between two layers
            cache.keep(before)
            raise
        return cache.length - before

    def pop_done(self) -> list[Prompt]:
        """Removes the requests that are done; returns those that had started."""
        done = [prompt for prompt in self.prompts if prompt.request.done]
        self.prompts = [prompt for prompt in self.prompts if not prompt.request.done]
        for request in [*self.waiting]:  # a copy, since other threads add to it
            if request.done:
                self.waiting.remove(request)
        return done
