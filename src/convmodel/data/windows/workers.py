"""A function applied to many items in several processes, with the results in order.

Owns: the pool of worker processes, and that they end with their parent. Knows nothing of windows.
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
"""Items that the calling process works on itself before it starts others."""

_PR_SET_PDEATHSIG = 1  # of <linux/prctl.h>

T = TypeVar("T")
R = TypeVar("R")

# Set in a worker process when it is forked: a function sent with each item would be pickled again and again.
_work: Callable[[Any], Any] | None = None


def in_processes(work: Callable[[T], R], items: Iterable[T], processes: int | None = None) -> Iterator[R]:
    """Applies a function to each item and yields the results in order; in several processes if there are many items.

    There is one process per core by default. A bounded number of items is in progress, so memory does not grow.
    """
    remaining = iter(items)
    for item in islice(remaining, IN_THIS_PROCESS):
        yield work(item)
    following = next(remaining, None)
    if following is None:
        return
    remaining = chain([following], remaining)
    # Elsewhere processes are not forked, or not safely: then the calling process does all of the work.
    count = (processes or len(os.sched_getaffinity(0))) if sys.platform == "linux" else 1
    if count == 1:
        yield from map(work, remaining)
        return
    # A forked process has the function's data already; one started otherwise would run the caller's script again.
    context = multiprocessing.get_context("fork")
    pending: deque[Future[Any]] = deque()
    with ProcessPoolExecutor(count, mp_context=context, initializer=_start_worker, initargs=(work,)) as pool:
        try:
            for item in remaining:
                pending.append(_submit(pool, item))
                if len(pending) > 2 * count:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        except BrokenProcessPool as error:
            raise ConvModelError("a worker process was killed, most likely for lack of memory") from error
        finally:
            pool.shutdown(cancel_futures=True)


def _submit(pool: ProcessPoolExecutor, item: Any) -> Future[Any]:
    with warnings.catch_warnings():
        # Python 3.12 warns of threads beside a fork; the new process calls nothing that uses them.
        warnings.simplefilter("ignore", DeprecationWarning)
        return pool.submit(_run, item)


def _start_worker(work: Callable[[Any], Any]) -> None:
    global _work
    _work = work
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # one core each
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the parent ends this process
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # and the kernel does if the parent is killed


def _run(item: Any) -> Any:
    assert _work is not None
    return _work(item)
