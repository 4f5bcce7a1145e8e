"""One thread that makes the steps of one model's engine for all requests.

Owns: how many requests may wait, how long they may wait and run, and ending well when the server is to stop.
"""

import asyncio
import logging
import math
import threading
import time
from collections import defaultdict
from collections.abc import Generator
from contextlib import contextmanager

from convmodel.generation.engine.engine import Engine
from convmodel.server.errors import ApiError, unavailable
from convmodel.server.serving.job import Job, Piece
from convmodel.server.serving.metrics import Metrics
from convmodel.server.settings import ServerSettings

logger = logging.getLogger(__name__)

_LONGEST_PAUSE = 60  # seconds that a client is told to wait before it asks again
_IDLE = 1.0  # seconds between looks at the queue where nothing comes


class _Turns:
    """Lets threads go one after the other, in the order in which they came.

    Two models that compute at the same time on one processor's cores slow each other more than tenfold.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._next = self._now = 0

    def __enter__(self) -> None:
        with self._changed:
            mine, self._next = self._next, self._next + 1
            self._changed.wait_for(lambda: self._now == mine)

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._now += 1
            self._changed.notify_all()


_TURNS = _Turns()


class Scheduler:
    """Takes requests from the server's loop and gives them to an engine in a thread of its own.

    Attributes:
        engine: What generates.
        draining: Whether no more requests are taken.
    """

    def __init__(self, engine: Engine, settings: ServerSettings, metrics: Metrics, name: str) -> None:
        self.engine = engine
        self.draining = False
        self._settings = settings
        self._metrics = metrics
        self._name = name
        self._jobs: list[Job] = []
        self._new: list[Job] = []
        self._reserved = 0
        self._changed = threading.Condition()
        self._closed = False
        self._seconds = 1.0  # that a response took lately
        self._thread = threading.Thread(target=self._work, name=f"engine of {name}", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many requests wait for their prompts to be read."""
        with self._changed:
            found = sum(job.begun_at is None and not job.request.done for job in (*self._jobs, *self._new))
            return found + self._reserved

    @property
    def running(self) -> int:
        """How many requests are in work."""
        with self._changed:
            return sum(job.begun_at is not None and not job.request.done for job in self._jobs)

    @contextmanager
    def place(self) -> Generator[None]:
        """Takes a place among those that wait, while what was sent becomes a request.

        Raises:
            ApiError: 503 if the server is about to stop, 429 if too many requests wait.
        """
        self._require_room()
        self._reserved += 1
        try:
            yield
        finally:
            self._reserved -= 1

    def _require_room(self) -> None:
        if self.draining:
            raise unavailable("the server is about to stop: ask again, and another one may answer", "draining", 1)
        if (waiting := self.waiting) >= self._settings.max_queue:
            self._metrics.refused.labels(self._name).inc()
            pause = min(_LONGEST_PAUSE, max(1, math.ceil(self._seconds * waiting / self.engine.max_rows)))
            raise ApiError(
                429,
                f"{waiting} requests wait already: ask again in {pause} s",
                type="rate_limit_error",
                code="queue_full",
                headers={"Retry-After": str(pause)},
            )

    def submit(self, job: Job) -> None:
        """Adds a request, for which there is a `place`."""
        with self._changed:
            self._new.append(job)
            self._changed.notify()

    def drain(self) -> None:
        """Takes no more requests; those that are there go on."""
        self.draining = True

    async def drained(self, seconds: float) -> bool:
        """Waits until all requests are answered, and ends those that are not after some time."""
        deadline = time.monotonic() + seconds
        while self._jobs or self._new or self._reserved:
            if time.monotonic() > deadline:
                self._fail_all(unavailable("the server stopped before the response had ended", "draining", 1))
                return False
            await asyncio.sleep(0.02)
        return True

    def close(self) -> None:
        """Ends the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout=30)

    # The thread of the engine

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._new or self._jobs or self._closed, _IDLE)
                if self._closed:
                    return
                new, self._new = self._new, []
                self._jobs += new
                if not self._jobs:
                    continue
            try:
                if new:
                    self.engine.add([job.request for job in new])
                with _TURNS:
                    self.engine.step()
            except Exception as error:
                # What ends one request stays in it; this is something else, and nobody can tell whom it concerns.
                logger.exception("the engine of %s failed; its requests are ended", self._name)
                for job in self._jobs:
                    job.request.error = job.request.error or error
            self._report()

    def _report(self) -> None:
        """Tells what the step brought, in one call for each loop, and lets go of what is over."""
        now = time.monotonic()
        news: defaultdict[asyncio.AbstractEventLoop, list[tuple[Job, list[Piece | Exception | None]]]]
        news = defaultdict(list)
        over: set[Job] = set()
        for job in self._jobs:
            self._limit(job, now)
            found = job.look(now)
            if found:
                news[job.loop].append((job, found))
            if job.request.done or job.ended_at is not None:
                over.add(job)
                self._account(job)
        if over:
            self.engine.settle()  # there may be no next step to do it
            with self._changed:
                self._jobs = [job for job in self._jobs if job not in over]
        for loop, each in news.items():
            try:
                loop.call_soon_threadsafe(_tell, each)
            except RuntimeError:  # the loop is closed: nobody waits
                logger.debug("nobody waits any more")

    def _limit(self, job: Job, now: float) -> None:
        """Ends a request that has waited or run for too long."""
        request, settings = job.request, self._settings
        if request.done:
            return
        if job.begun_at is None and now - job.arrived > settings.wait_seconds:
            request.error = unavailable(
                f"the request waited for {settings.wait_seconds:g} s without its turn: ask again later", "waited", 5
            )
        elif job.begun_at is not None and now - job.begun_at > settings.run_seconds:
            request.error = ApiError(
                504,
                f"the response took more than {settings.run_seconds:g} s: ask for fewer tokens",
                type="server_error",
                code="run_limit",
            )

    def _account(self, job: Job) -> None:
        request = job.request
        if job.begun_at is not None and job.ended_at is not None:
            self._seconds += 0.2 * (job.ended_at - job.begun_at - self._seconds)
        outcome = "cancelled" if request.cancelled else "failed" if request.error else "done"
        if isinstance(request.error, Exception) and not isinstance(request.error, ApiError):
            logger.error("a response of %s failed", self._name, exc_info=request.error)
        self._metrics.finished(self._name, job, outcome)

    def _fail_all(self, error: Exception) -> None:
        with self._changed:
            for job in (*self._jobs, *self._new):
                if not job.request.done:
                    job.request.error = error


def _tell(news: list[tuple[Job, list[Piece | Exception | None]]]) -> None:
    for job, found in news:
        job.tell(found)
