"""The queue in front of an engine, and the order of threads; the engine is a stand-in."""

import asyncio
import threading
from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from convmodel.generation.engine.request import Request
from convmodel.generation.engine.sampling import Sampler
from convmodel.generation.output import Chunk
from convmodel.server.errors import ApiError
from convmodel.server.serving.job import Job
from convmodel.server.serving.metrics import Metrics
from convmodel.server.serving.scheduler import Scheduler, _FifoLock
from convmodel.server.settings import ServerSettings


@pytest.fixture
def scheduler() -> Iterator[Scheduler]:
    engine: Any = SimpleNamespace(max_rows=1)
    scheduler = Scheduler(engine, ServerSettings(max_queue=2), Metrics(), "m")
    yield scheduler
    scheduler.close()


def test_a_full_queue_refuses_and_says_when_to_retry(scheduler: Scheduler) -> None:
    with scheduler.reserve(), scheduler.reserve():
        assert scheduler.waiting == 2
        with (
            pytest.raises(ApiError, match="2 requests are waiting already: try again in 2 s") as caught,
            scheduler.reserve(),
        ):
            pass
        assert (caught.value.status, caught.value.headers["Retry-After"]) == (429, "2")
    with scheduler.reserve():
        assert scheduler.waiting == 1


def test_a_request_that_cannot_be_prepared_gives_its_place_back(scheduler: Scheduler) -> None:
    with pytest.raises(ValueError, match="broken"), scheduler.reserve():
        raise ValueError("broken")
    assert scheduler.waiting == 0


def test_a_draining_scheduler_refuses_new_requests(scheduler: Scheduler) -> None:
    scheduler.draining = True
    with pytest.raises(ApiError) as caught, scheduler.reserve():
        pass
    assert caught.value.status == 503


def test_the_lock_is_given_in_the_order_of_arrival() -> None:
    lock, order, threads = _FifoLock(), [], []

    def work(number: int) -> None:
        with lock:
            order.append(number)

    with lock:
        for number in range(5):
            thread = threading.Thread(target=work, args=(number,))
            threads.append(thread)
            thread.start()
            while lock._next_ticket < number + 2:
                thread.join(0.001)
    for thread in threads:
        thread.join()
    assert order == [0, 1, 2, 3, 4]


class Engine:
    """Each step generates the last token of every request; `fail` is called in a step and when memory is freed."""

    max_rows = 1

    def __init__(self, *, fail_at: str) -> None:
        self._fail_at = fail_at
        self._requests: list[Request] = []

    def add(self, requests: list[Request]) -> None:
        self._requests += requests

    def step(self) -> None:
        for request in self._requests:
            request.rows[0].add(1)
        self._requests = []
        self._fail("step")

    def settle(self) -> None:
        self._fail("settle")

    def _fail(self, place: str) -> None:
        if place == self._fail_at:
            self._fail_at = ""
            raise MemoryError(f"none left in {place}")


class Text:
    """The text of a response of one token."""

    def __init__(self, *, fails: bool = False) -> None:
        self.ids = [1]
        self._fails = fails

    def next(self) -> Chunk:
        if self._fails:
            raise MemoryError("none left for the text")
        return Chunk("a", "length", (1,), (-1.0,))


async def answer(scheduler: Scheduler, *texts: Text) -> list[str]:
    """Sends a request for each text at once, and returns what comes: the responses, or the statuses of errors."""
    jobs = []
    for text in texts:
        request = Request([1], [], [Sampler({}, [1], [2])], stop_ids=frozenset([2]), max_new_tokens=1)
        jobs.append(Job(request, [text]))  # type: ignore[list-item]
    with scheduler._changed:  # so that one step answers all of them
        for job in jobs:
            scheduler.submit(job)
    results = []
    for job in jobs:
        try:
            piece = await asyncio.wait_for(job.next(), 10)
            assert piece is not None
            assert await asyncio.wait_for(job.next(), 10) is None
            results.append(piece.text)
        except ApiError as error:
            results.append(str(error.status))
    return results


@pytest.fixture
def serve() -> Iterator[Callable[..., Scheduler]]:
    schedulers: list[Scheduler] = []

    def serve(fail_at: str = "") -> Scheduler:
        engine: Any = Engine(fail_at=fail_at)
        schedulers.append(Scheduler(engine, ServerSettings(), Metrics(), "m"))
        return schedulers[-1]

    yield serve
    for scheduler in schedulers:
        scheduler.close()


@pytest.mark.parametrize("place", ["settle", "step"])
def test_a_complete_response_arrives_although_its_memory_cannot_be_freed(
    serve: Callable[..., Scheduler], caplog: pytest.LogCaptureFixture, place: str
) -> None:
    scheduler = serve(fail_at=place)
    assert asyncio.run(answer(scheduler, Text(), Text())) == ["a", "a"]
    assert f"none left in {place}" in caplog.text
    assert asyncio.run(answer(scheduler, Text())) == ["a"]  # the thread has survived


def test_a_response_whose_text_fails_is_an_error_and_the_others_arrive(serve: Callable[..., Scheduler]) -> None:
    scheduler = serve()
    assert asyncio.run(answer(scheduler, Text(), Text(fails=True), Text())) == ["a", "500", "a"]
    assert scheduler.running == 0
    assert asyncio.run(answer(scheduler, Text())) == ["a"]
