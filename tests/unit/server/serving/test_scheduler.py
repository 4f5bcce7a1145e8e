"""The queue in front of an engine, and the order of threads; the engine is a stand-in."""

import threading
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from convmodel.server.errors import ApiError
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
