"""How many threads torch computes on while other programs use the same cores.

Owns: noticing that a core is busy with something else, and using fewer threads until it is free again. Threads that
compute together wait for each other, actively: one that has to share its core makes all others wait, so that a step
takes many times as long, not twice.
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


def free_threads(usage: Callable[[], Usage] = current_usage) -> int:
    """Returns on how many threads a program that this process starts can compute, by trying for a moment."""
    threads = torch.get_num_threads()
    if any(name in os.environ for name in VARIABLES):
        return threads
    return max(1, min(threads, int(_computing(usage, _SHORTEST) + _MISSING)))


def _computing(usage: Callable[[], Usage], seconds: float) -> float:
    """Computes something on torch's threads for some seconds; returns how many of them computed at a time."""
    values, before = torch.ones(1 << 18), usage()
    while (after := usage()).wall - before.wall < seconds:
        values.mul_(1.0)
    return (after.cpu - before.cpu) / (after.wall - before.wall)


class Threads:
    """Adapts the number of torch's threads of this process.

    Example:
        >>> with Threads().step():
        ...     product = torch.ones(2, 2) @ torch.ones(2, 2)
    """

    def __init__(self, usage: Callable[[], Usage] = current_usage) -> None:
        self._usage = usage
        self._full = self._now = 0  # unknown
        self._wall, self._cpu, self._switches = 0.0, 0.0, 0
        self._tried_at = 0.0

    @contextmanager
    def step(self) -> Iterator[None]:
        """Runs a step of computing on as many threads as there are free cores."""
        if any(name in os.environ for name in VARIABLES):
            yield
            return
        threads = torch.get_num_threads()
        if threads not in (self._full, self._now):  # at first, or the user has set another number
            self._full = self._now = threads
            self._forget()
        elif threads != self._now:  # torch's number is that of each thread of Python
            torch.set_num_threads(self._now)
        if self._full == 1:
            yield
            return
        before = self._usage()
        if self._now < self._full and before.wall - self._tried_at > _TRIAL_EVERY and self._are_free():
            self._use(self._full, "as other programs have ended")
        before = self._usage()
        yield
        self._judge(before, self._usage())

    def _judge(self, before: Usage, after: Usage) -> None:
        """Adds a step to the earlier ones, and reduces the threads if these had to share their cores."""
        self._wall += after.wall - before.wall
        self._cpu += after.cpu - before.cpu
        self._switches += after.switches - before.switches
        if self._wall < _SHORTEST or self._now == 1:
            return
        computing = self._cpu / self._wall
        if computing < self._now - _MISSING and self._switches > _SWITCHES * self._wall:
            self._tried_at = after.wall
            self._use(max(1, self._now - math.ceil(self._now - computing)), "as other programs use the cores, too")
        self._forget()

    def _are_free(self) -> bool:
        """Computes something on all threads for a moment; returns whether they could."""
        torch.set_num_threads(self._full)
        computing = _computing(self._usage, _TRIAL)
        torch.set_num_threads(self._now)
        self._tried_at = self._usage().wall
        return computing > self._full - _MISSING

    def _use(self, threads: int, why: str) -> None:
        logger.info("computing on %d of %d threads, %s", threads, self._full, why)
        self._now = threads
        torch.set_num_threads(threads)
        self._forget()

    def _forget(self) -> None:
        self._wall, self._cpu, self._switches = 0.0, 0.0, 0


THREADS = Threads()
"""Those of this process."""
