"""How torch's threads wait for each other in training and evaluation while other programs use the same cores.

Owns: making the threads sleep while they wait, from when a core is busy with something else until it is free again. A
thread that waits actively keeps the others from its core. The number of threads, on which the last bits of sums depend,
stays what it is, and so does every result: only times change.
"""

import ctypes
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from functools import cache

import torch

from convmodel.hf_model.threads import Steps, Trials, Usage, current_usage, user_decided

logger = logging.getLogger(__name__)

_CORES = len(os.sched_getaffinity(0)) if sys.platform == "linux" else 0
"""The cores that this process could use when torch loaded its OpenMP library, which counts them only then."""


@cache
def _libgomp() -> ctypes.CDLL | None:
    """Returns what torch has loaded, if its OpenMP library is GCC's."""
    if sys.platform != "linux":
        return None
    loaded = ctypes.CDLL(None)
    # LLVM's and Intel's have GCC's functions, too, but wait in another way.
    return loaded if hasattr(loaded, "GOMP_parallel") and not hasattr(loaded, "kmp_set_blocktime") else None


@contextmanager
def passive_wait(threads: int) -> Iterator[None]:
    """Makes libgomp's threads sleep inside the block as soon as they wait; `threads` of them compute together.

    While a process has more OpenMP threads than cores, each looks only 100 times whether it may continue, instead of
    300,000 times (https://gcc.gnu.org/onlinedocs/libgomp/GOMP_005fSPINCOUNT.html). So as many are added as are needed,
    which do nothing and sleep.
    """
    library = _libgomp()
    assert library is not None
    begun, ended = threading.Event(), threading.Event()

    def add() -> None:  # OpenMP's threads belong to the thread that starts them, and end with it
        try:
            nothing = ctypes.cast(library.free, ctypes.c_void_p)  # of NULL, which has no effect
            library.GOMP_parallel(nothing, None, ctypes.c_uint(max(2, _CORES - threads + 2)), ctypes.c_uint(0))
        finally:
            begun.set()
        ended.wait()

    adding = threading.Thread(target=add, name="convmodel-passive-wait", daemon=True)
    adding.start()
    begun.wait()
    try:
        yield
    finally:
        ended.set()
        adding.join()


class Waiting:
    """Adapts how torch's threads of this process wait for each other.

    Example:
        >>> waiting = Waiting()
        >>> with waiting.adapting(torch.device("cpu")):
        ...     for number in range(3):
        ...         waiting.look()
        ...         product = torch.ones(2, 2) @ torch.ones(2, 2)
    """

    def __init__(
        self,
        usage: Callable[[], Usage] = current_usage,
        passive: Callable[[int], AbstractContextManager[None]] = passive_wait,
    ) -> None:
        self._usage, self._passive = usage, passive
        self._blocks = 0
        self._sleeping = ExitStack()  # empty while threads wait actively
        self._is_passive = False
        self._steps, self._trials = Steps(), Trials(usage)
        self._before: Usage | None = None
        self._level = logging.INFO
        self._lock = threading.Lock()

    @contextmanager
    def adapting(self, device: torch.device) -> Iterator[None]:
        """Adapts to other programs at each `look` inside the block if a CPU computes; blocks may be nested."""
        if device.type != "cpu":
            yield
            return
        with self._lock:
            self._blocks += 1
        try:
            yield
        finally:
            with self._lock:
                self._blocks -= 1
                if not self._blocks:
                    self._wait_actively()
                    self._before = None

    def look(self) -> None:
        """Judges what was computed since the last call. To be called between steps."""
        threads = torch.get_num_threads()
        if not self._blocks or threads == 1 or user_decided() or _libgomp() is None:
            return
        with self._lock:
            if not self._blocks:  # the last one has ended meanwhile
                return
            now = self._usage()
            if self._is_passive:
                if self._trials.due(now.wall):
                    self._try_active(threads)
            elif self._before is not None and self._steps.lacking(self._before, now, threads):
                self._wait_passively(threads)
                logger.log(
                    self._level,
                    "other programs use the processor, so the work is slower: %d threads now sleep while they wait",
                    threads,
                )
            self._before = self._usage()

    def _try_active(self, threads: int) -> None:
        self._wait_actively()
        if self._trials.succeeds():
            logger.log(
                self._level,
                "other programs have ended, so the work is at full speed again: %d threads wait actively",
                threads,
            )
            self._level = logging.DEBUG  # beside a program that computes now and then, this may repeat every 2 s
        else:
            self._wait_passively(threads)

    def _wait_passively(self, threads: int) -> None:
        try:
            self._sleeping.enter_context(self._passive(threads))
        except RuntimeError as error:  # no more threads can be started
            logger.debug("threads go on waiting actively: %s", error)
            return
        self._is_passive = True
        self._trials.postpone(self._usage().wall)

    def _wait_actively(self) -> None:
        self._sleeping.close()
        self._is_passive = False
        self._steps.forget()


WAITING = Waiting()
"""That of this process."""
