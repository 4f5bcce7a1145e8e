"""A function applied to chunks of conversations in several processes, with the results in order.

Owns: the pool of processes and how they end with their parent. Knows nothing about windows.
"""

import ctypes
import multiprocessing
import os
import signal
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import chain, islice
from typing import Any, TypeVar

from convmodel.errors import ConvModelError

IN_THIS_PROCESS = 8
"""How many chunks are worked on in the calling process before others are started."""

_PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>

T = TypeVar("T")
R = TypeVar("R")

_work: Callable[[Any], Any] | None = None  # of a worker process


def in_processes(work: Callable[[T], R], given: Iterable[T], processes: int | None = None) -> Iterator[R]:
    """Does the work on each chunk, in order; in several processes where there is enough of it.

    Only a bounded number of chunks is under way, so memory does not grow with their number.

    Args:
        work: What to do; it and its results travel between processes.
        given: The chunks.
        processes: How many processes; by default one a core.
    """
    rest = iter(given)
    for chunk in islice(rest, IN_THIS_PROCESS):
        yield work(chunk)
    following = next(rest, None)
    if following is None:
        return
    rest = chain([following], rest)
    count = processes or _cores()
    if count == 1:
        yield from map(work, rest)
        return
    # A forked process has the tokenizer already; one started otherwise would run the caller's script again.
    context = multiprocessing.get_context("fork")
    pending: deque[Future[Any]] = deque()
    with ProcessPoolExecutor(count, mp_context=context, initializer=_begin, initargs=(work,)) as pool:
        try:
            for chunk in rest:
                pending.append(_submitted(pool, chunk))
                if len(pending) > 2 * count:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool as error:
            raise ConvModelError("a process that encodes was killed, most likely for lack of memory") from error
        finally:
            pool.shutdown(cancel_futures=True)


def _submitted(pool: ProcessPoolExecutor, chunk: Any) -> Future[Any]:
    with warnings.catch_warnings():
        # Python 3.12 warns of threads beside a fork; the new process calls nothing that uses them.
        warnings.simplefilter("ignore", DeprecationWarning)
        return pool.submit(_do, chunk)


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else 1


def _begin(work: Callable[[Any], Any]) -> None:
    global _work
    _work = work
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one core each
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent process ends this one
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # and the kernel does, should that be killed


def _do(chunk: Any) -> Any:
    assert _work is not None
    return _work(chunk)
