"""Signals that ask a command to stop: the first calls a function, a second has its usual effect."""

import os
import signal
import threading
from typing import Any

import pytest

from convmodel.data.stop_request import StopRequest, handling_signals


@pytest.mark.parametrize(("number", "name"), [(signal.SIGTERM, "SIGTERM"), (signal.SIGINT, "Ctrl+C")])
def test_the_first_signal_calls_a_function_in_another_thread(number: int, name: str) -> None:
    called, seen = threading.Event(), []

    def stop(request: StopRequest) -> None:
        seen.append((request.number, request.name, threading.current_thread() is threading.main_thread()))
        called.set()

    before = signal.getsignal(number)
    with handling_signals(stop) as request:
        assert request.number is None
        os.kill(os.getpid(), number)
        assert request.number == number
        assert called.wait(30)
        assert signal.getsignal(number) == before  # so that a second one has its usual effect
    assert seen == [(number, name, False)]


def test_a_second_one_interrupts() -> None:
    def interrupt_twice() -> None:
        with handling_signals(lambda request: None):
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        interrupt_twice()


def test_the_handlers_before_come_back() -> None:
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    with handling_signals(lambda request: None):
        assert signal.getsignal(signal.SIGINT) != before[0]
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_what_the_program_ignores_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with handling_signals(lambda request: None) as request:
            os.kill(os.getpid(), signal.SIGINT)
            assert request.number is None
    finally:
        signal.signal(signal.SIGINT, before)


def test_outside_of_the_main_thread_nothing_is_handled() -> None:
    seen: list[Any] = []

    def listen() -> None:
        with handling_signals(lambda request: None):
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM)]
