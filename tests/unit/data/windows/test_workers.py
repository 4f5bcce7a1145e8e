"""Work in several processes: in order, bounded, and with its errors."""

import os
import signal
from collections.abc import Iterator

import pytest

from convmodel.data.windows import workers
from convmodel.data.windows.workers import in_processes
from convmodel.errors import ConvModelError


@pytest.fixture(autouse=True)
def few_in_this_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "IN_THIS_PROCESS", 2)


@pytest.mark.parametrize("processes", [1, 2, None])
def test_results_keep_their_order_and_errors_are_raised(processes: int | None) -> None:
    assert list(in_processes(_square, range(40), processes=processes)) == [number**2 for number in range(40)]
    with pytest.raises(ConvModelError, match="item 22"):
        list(in_processes(_fail_late, range(40), processes=processes))


@pytest.mark.parametrize("count", [0, 1, 2, 3])
def test_few_items_are_worked_on_too(count: int) -> None:
    assert list(in_processes(_square, range(count), processes=2)) == [number**2 for number in range(count)]


def test_only_a_bounded_number_of_items_is_in_progress() -> None:
    taken = []

    def counted() -> Iterator[int]:
        for item in range(60):
            taken.append(item)
            yield item

    results = in_processes(_square, counted(), processes=2)
    for _ in range(4):
        next(results)

    assert len(taken) <= 4 + 2 * 2 + 2
    results.close()


def test_a_killed_process_is_an_error_of_ours() -> None:
    with pytest.raises(ConvModelError, match="a worker process was killed, most likely for lack of memory"):
        list(in_processes(_die_late, range(10), processes=2))


def _square(item: int) -> int:
    return item**2


def _fail_late(item: int) -> int:
    if item > 21:
        raise ConvModelError(f"item {item}")
    return item


def _die_late(item: int) -> int:
    if item > 5:
        os.kill(os.getpid(), signal.SIGKILL)
    return item
