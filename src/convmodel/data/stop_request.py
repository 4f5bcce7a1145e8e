"""Signals that ask a command to end what it has begun, and stop.

Owns: SIGTERM and the first Ctrl+C; a second one has its usual effect. Does not know what is stopped.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


def signal_name(number: int) -> str:
    """Returns what the user knows a signal as.

    Example:
        >>> signal_name(signal.SIGINT), signal_name(signal.SIGTERM)
        ('Ctrl+C', 'SIGTERM')
    """
    return "Ctrl+C" if number == signal.SIGINT else signal.Signals(number).name


@dataclass(slots=True)
class StopRequest:
    """The signal that was received; None without one."""

    number: int | None = None

    @property
    def name(self) -> str:
        """What the user knows the signal as."""
        return signal_name(self.number or 0)


@contextmanager
def handling_signals(stop: Callable[[StopRequest], None]) -> Iterator[StopRequest]:
    """Calls a function at SIGTERM or the first Ctrl+C.

    It runs in a thread, since the signal may have interrupted a message that holds the lock of the log or the terminal.
    Outside of the main thread, which alone receives signals, nothing is handled.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler if handler is not None else signal.SIG_DFL)

    def note(number: int, frame: FrameType | None) -> None:
        request.number = number
        restore()
        threading.Thread(target=stop, args=(request,), daemon=True).start()

    for number, handler in before.items():
        if handler != signal.SIG_IGN:  # a signal that the program ignores, as under nohup, stays ignored
            signal.signal(number, note)
    try:
        yield request
    finally:
        restore()
