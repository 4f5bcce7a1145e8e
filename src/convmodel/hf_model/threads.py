"""How many threads torch computes on while other programs use the same cores.

Owns: noticing that a core is busy with something else, and using fewer threads until it is free again. Threads that
compute together wait for each other, actively: one that has to share its core makes all others wait, so that a step
takes many times as long, not twice. The number of threads changes the last bits of sums, so training and evaluation
keep it: see `waiting.py`.
"""

import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)

VARIABLES = ("OMP_NUM_THREADS", "OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "OMP_DYNAMIC")
"""Environment variables by which a user has decided about threads."""

_MISSING = 0.3
"""How much of a core's time threads must lack; they compute nearly all the time, since they wait actively."""

_SWITCHES = 90
"""How often a second the system must have taken a core away: 30 times if nothing else runs, 200 if a core is shared."""

_SHORTEST = 0.05
"""Steps are added up to this many seconds before they are judged; the system gives a core away for 3 to 10 ms."""

_TRIAL_EVERY, _TRIAL = 2.0, 0.02
"""With fewer threads, it is tried every so many seconds for so many whether the cores are free again."""


class Usage(NamedTuple):
    """The use of the processor at a time.

    Attributes:
        wall: The time, in seconds.
        cpu: The time that all threads of this process have computed, in seconds.
        switches: How often the system has taken a core away from one of them.
    """

    wall: float
    cpu: float
    switches: int


def current_usage() -> Usage:
    """Returns the use so far; on Windows, no switches."""
    switches = 0 if resource is None else resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw
    return Usage(time.perf_counter(), time.process_time(), switches)


def user_decided() -> bool:
    """Returns whether one of the `VARIABLES` is set."""
    return any(name in os.environ for name in VARIABLES)


def free_threads(usage: Callable[[], Usage] = current_usage) -> int:
    """Returns on how many threads a program that this process starts can compute, by trying for a moment."""
    threads = torch.get_num_threads()
    if user_decided():
        return threads
    return max(1, min(threads, int(_computing(usage, _SHORTEST) + _MISSING)))


def _computing(usage: Callable[[], Usage], seconds: float) -> float:
    """Computes something on torch's threads for some seconds; returns how many of them computed at a time."""
    values, before = torch.ones(1 << 18), usage()
    while (after := usage()).wall - before.wall < seconds:
        values.mul_(1.0)
    return (after.cpu - before.cpu) / (after.wall - before.wall)


class Steps:
    """Adds up the use of several steps, until they are long enough to be judged."""

    def __init__(self) -> None:
        self.forget()

    def forget(self) -> None:
        """Begins again."""
        self._wall, self._cpu, self._switches = 0.0, 0.0, 0

    def lacking(self, before: Usage, after: Usage, threads: int) -> float:
        """Adds a step; returns how many cores the threads lacked since others used them: 0 if that is not why."""
        self._wall += after.wall - before.wall
        self._cpu += after.cpu - before.cpu
        self._switches += after.switches - before.switches
        if self._wall < _SHORTEST:
            return 0.0
        lacking, rate = threads - self._cpu / self._wall, self._switches / self._wall
        self.forget()
        return lacking if lacking > _MISSING and rate > _SWITCHES else 0.0


class Trials:
    """Tries from time to time whether cores that were busy are free again."""

    def __init__(self, usage: Callable[[], Usage]) -> None:
        self._usage = usage
        self._last = 0.0

    def postpone(self, wall: float) -> None:
        """Counts from a time on, in seconds."""
        self._last = wall

    def due(self, wall: float) -> bool:
        """Returns whether the last trial was long ago."""
        return wall - self._last > _TRIAL_EVERY

    def succeeds(self) -> bool:
        """Computes something on torch's threads for a moment; returns whether all of them could."""
        computing = _computing(self._usage, _TRIAL)
        self.postpone(self._usage().wall)
        return computing > torch.get_num_threads() - _MISSING


class Threads:
    """Adapts the number of torch's threads of this process.

    Example:
        >>> with Threads().step():
        ...     product = torch.ones(2, 2) @ torch.ones(2, 2)
    """

    def __init__(self, usage: Callable[[], Usage] = current_usage) -> None:
        self._usage = usage
        self._full = self._now = 0  # unknown
        self._steps, self._trials = Steps(), Trials(usage)

    @contextmanager
    def step(self) -> Iterator[None]:
        """Runs a step of computing on as many threads as there are free cores."""
        if user_decided():
            yield
            return
        threads = torch.get_num_threads()
        if threads not in (self._full, self._now):  # at first, or the user has set another number
            self._full = self._now = threads
            self._steps.forget()
        elif threads != self._now:  # torch's number is that of each thread of Python
            torch.set_num_threads(self._now)
        if self._full == 1:
            yield
            return
        before = self._usage()
        if self._now < self._full and self._trials.due(before.wall) and self._are_free():
            self._use(self._full, "as other programs have ended")
        before = self._usage()
        yield
        self._judge(before, self._usage())

    def _judge(self, before: Usage, after: Usage) -> None:
        """Reduces the threads if they had to share their cores."""
        lacking = self._steps.lacking(before, after, self._now)
        if lacking and self._now > 1:
            self._trials.postpone(after.wall)
            self._use(max(1, self._now - math.ceil(lacking)), "as other programs use the cores, too")

    def _are_free(self) -> bool:
        """Tries all threads; returns whether there is a core for each."""
        torch.set_num_threads(self._full)
        free = self._trials.succeeds()
        torch.set_num_threads(self._now)
        return free

    def _use(self, threads: int, why: str) -> None:
        logger.info("computing on %d of %d threads, %s", threads, self._full, why)
        self._now = threads
        torch.set_num_threads(threads)
        self._steps.forget()


THREADS = Threads()
"""Those of this process."""
