"""The order in which texts are encoded."""

import asyncio
import threading
from typing import Any

import pytest

from convmodel.server.errors import ApiError
from convmodel.server.serving.encoding import EncodingQueue

LONG = 10**6


class Work:
    """Functions to run, each until it is let go."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.end: dict[str, threading.Event] = {}

    def run(self, queue: EncodingQueue, name: str, characters: int) -> "asyncio.Task[str]":
        self.end[name] = threading.Event()

        def work() -> str:
            self.begun.append(name)
            self.end[name].wait(10)
            return name

        return asyncio.ensure_future(queue.run(work, characters))

    async def begins(self, *names: str) -> None:
        for _ in range(2000):
            if set(names) <= set(self.begun):
                return
            await asyncio.sleep(0.005)
        raise AssertionError(f"{names}: {self.begun}")


def run(test: Any) -> None:
    asyncio.run(test)


def test_a_short_text_does_not_wait_for_long_ones() -> None:
    async def test() -> None:
        queue, work = EncodingQueue(60), Work()
        long = [work.run(queue, f"long {number}", LONG) for number in range(40)]
        await work.begins("long 0")
        short = work.run(queue, "short", 5)
        await work.begins("short")
        assert work.begun == ["long 0", "short"]
        for event in work.end.values():
            event.set()
        assert await short == "short"
        assert await asyncio.gather(*long) == [f"long {number}" for number in range(40)]

    run(test())


def test_short_texts_do_not_keep_a_long_one_from_its_turn() -> None:
    async def test() -> None:
        queue, work = EncodingQueue(60), Work()
        short = [work.run(queue, f"short {number}", 5) for number in range(20)]
        await work.begins("short 0", "short 1")
        long = work.run(queue, "long", LONG)
        work.end["short 0"].set()
        work.end["short 1"].set()
        await work.begins("long")
        assert len(work.begun) <= 4
        for event in work.end.values():
            event.set()
        await asyncio.gather(long, *short)

    run(test())


def test_among_long_texts_the_shorter_goes_first_unless_it_came_much_later(monkeypatch: pytest.MonkeyPatch) -> None:
    async def test() -> None:
        queue, work, now = EncodingQueue(10**6), Work(), [0.0]
        loop = asyncio.get_running_loop()
        first = work.run(queue, "first", LONG)
        await work.begins("first")
        real = loop.time
        tasks = []
        for name, characters, later in (("longest", LONG, 0), ("shorter", LONG // 2, 5), ("late", LONG // 2, 15)):
            now[0] = later
            with monkeypatch.context() as patch:
                patch.setattr(loop, "time", lambda: real() + now[0])
                tasks.append(work.run(queue, name, characters))
                await asyncio.sleep(0)
        for event in work.end.values():
            event.set()
        await asyncio.gather(first, *tasks)
        assert work.begun == ["first", "shorter", "longest", "late"]

    run(test())


def test_a_turn_that_does_not_come_in_time_is_503_and_is_not_taken_later() -> None:
    async def test() -> None:
        queue, work = EncodingQueue(0.05), Work()
        first = work.run(queue, "first", LONG)
        second = work.run(queue, "second", LONG)
        with pytest.raises(ApiError, match=r"waited in the queue for 0.05 s") as refused:
            await second
        assert (refused.value.status, refused.value.envelope["error"]["code"]) == (503, "waited")
        cancelled = work.run(queue, "cancelled", LONG)
        await asyncio.sleep(0)
        cancelled.cancel()
        work.end["first"].set()
        await first
        work.run(queue, "last", LONG)
        await work.begins("last")
        work.end["last"].set()
        assert work.begun == ["first", "last"]

    run(test())
