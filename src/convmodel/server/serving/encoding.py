"""The order in which texts are encoded: short ones first, and long ones before they have waited too long.

Owns: how many texts are encoded at the same time, and what counts as a long one.
"""

import asyncio
import heapq
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from itertools import count
from typing import TypeVar

import anyio

from convmodel.server.errors import waited_too_long

Result = TypeVar("Result")

_THREADS = 2
_LONG = 2**15  # characters; encoding them takes about 50 ms
_AGEING = 50_000.0  # characters per second: a longer text goes before a shorter one that came this much later


class EncodingQueue:
    """Runs what encodes texts in threads. At most one of them has a long text, so short texts never wait for long ones.

    Among texts that wait, one goes first that came early or is short: a second of waiting makes up for a number of
    characters, so that no text waits for ever.
    """

    def __init__(self, wait_seconds: float) -> None:
        self._wait_seconds = wait_seconds
        self._threads = anyio.CapacityLimiter(_THREADS)
        self._apart = anyio.CapacityLimiter(1)
        self._waiting: dict[bool, list[tuple[float, int, asyncio.Future[None]]]] = {True: [], False: []}  # is long?
        self._running = {True: 0, False: 0}
        self._numbers = count()

    async def run(self, work: Callable[[], Result], characters: int) -> Result:
        """Runs a function that encodes so many characters, in a thread, when it is its turn.

        Raises:
            ApiError: If its turn does not come in time.
        """
        async with self._turn(characters):
            return await anyio.to_thread.run_sync(work, limiter=self._threads)

    async def run_apart(self, work: Callable[[], Result]) -> Result:
        """Runs a function that encodes nothing but may take long, in a thread of its own; one at a time."""
        return await anyio.to_thread.run_sync(work, limiter=self._apart)

    @asynccontextmanager
    async def _turn(self, characters: int) -> AsyncGenerator[None]:
        loop, is_long = asyncio.get_running_loop(), characters > _LONG
        turn = loop.create_future()
        heapq.heappush(self._waiting[is_long], (loop.time() + characters / _AGEING, next(self._numbers), turn))
        self._start()
        try:
            async with asyncio.timeout(self._wait_seconds):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():  # its turn came in the same moment
                self._end(is_long)
            if isinstance(error, TimeoutError):
                raise waited_too_long(self._wait_seconds) from None
            raise
        try:
            yield
        finally:
            self._end(is_long)

    def _end(self, is_long: bool) -> None:
        self._running[is_long] -= 1
        self._start()

    def _start(self) -> None:
        for is_long in (False, True):
            waiting = self._waiting[is_long]
            while waiting and sum(self._running.values()) < _THREADS and self._has_thread(is_long):
                turn = heapq.heappop(waiting)[2]
                if not turn.done():  # otherwise the request was cancelled
                    turn.set_result(None)
                    self._running[is_long] += 1

    def _has_thread(self, is_long: bool) -> bool:
        """Returns whether one more may run: one long text at a time, and while one waits or runs, one short text."""
        if is_long:
            return not self._running[True]
        return not self._running[False] or not (self._running[True] or self._waiting[True])
