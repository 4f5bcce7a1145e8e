"""One thread per model that runs the engine's steps for all requests.

Owns: how many requests may wait, how long they may wait and run, and finishing them when the server shuts down.
"""

import asyncio
import logging
import math
import threading
import time
from collections import defaultdict
from collections.abc import Generator
from contextlib import contextmanager, nullcontext

from convmodel.generation.engine.engine import Engine
from convmodel.server.errors import ApiError, unavailable, waited_too_long
from convmodel.server.serving.job import Job, Updates
from convmodel.server.serving.metrics import Metrics
from convmodel.server.settings import ServerSettings

logger = logging.getLogger(__name__)

_MAX_RETRY_AFTER = 60  # seconds
_IDLE_SECONDS = 1.0  # how long the thread waits for new requests before it checks again


class _FifoLock:
    """A lock that threads acquire in the order in which they requested it.

    Two models that compute at the same time on the same cores slow each other down more than tenfold.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._next_ticket = self._current = 0

    def __enter__(self) -> None:
        with self._changed:
            ticket, self._next_ticket = self._next_ticket, self._next_ticket + 1
            self._changed.wait_for(lambda: self._current == ticket)

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._current += 1
            self._changed.notify_all()


_COMPUTE_LOCK = _FifoLock()


class Scheduler:
    """Takes requests from the server's event loop and gives them to an engine in a separate thread."""

    def __init__(self, engine: Engine, settings: ServerSettings, metrics: Metrics, name: str) -> None:
        self.engine = engine
        self.draining = False  # whether new requests are refused
        self._settings = settings
        self._metrics = metrics
        self._name = name
        self._jobs: list[Job] = []
        self._new: list[Job] = []
        self._reserved = 0
        self._changed = threading.Condition()
        self._closed = False
        self._mean_seconds = 1.0  # per response, as a moving average
        self._thread = threading.Thread(target=self._run, name=f"engine of {name}", daemon=True)
        self._thread.start()

    @property
    def waiting(self) -> int:
        """How many requests wait for the end of their prefill."""
        with self._changed:
            waiting = sum(job.begun_at is None and not job.request.done for job in (*self._jobs, *self._new))
            return waiting + self._reserved

    @property
    def running(self) -> int:
        """How many requests are being processed."""
        with self._changed:
            return sum(job.begun_at is not None and not job.request.done for job in self._jobs)

    @contextmanager
    def reserve(self) -> Generator[None]:
        """Reserves a place in the queue while a request is prepared; refuses if it is full or the server stops."""
        if self.draining:
            raise unavailable("the server is shutting down: try again, and another one may answer", "draining", 1)
        if (waiting := self.waiting) >= self._settings.max_queue:
            self._metrics.refused.labels(self._name).inc()
            seconds = min(_MAX_RETRY_AFTER, max(1, math.ceil(self._mean_seconds * waiting / self.engine.max_rows)))
            message = f"{waiting} requests are waiting already: try again in {seconds} s"
            headers = {"Retry-After": str(seconds)}
            raise ApiError(429, message, type="rate_limit_error", code="queue_full", headers=headers)
        self._reserved += 1
        try:
            yield
        finally:
            self._reserved -= 1

    def submit(self, job: Job) -> None:
        """Adds a request whose place was reserved."""
        with self._changed:
            self._new.append(job)
            self._changed.notify()

    async def wait_until_drained(self, seconds: float) -> None:
        """Waits until all requests are answered, and ends those that take longer than some seconds."""
        deadline = time.monotonic() + seconds
        while self._jobs or self._new or self._reserved:
            if time.monotonic() > deadline:
                with self._changed:
                    for job in (*self._jobs, *self._new):
                        if not job.request.done:
                            message = "the server stopped before the response was complete"
                            job.request.error = unavailable(message, "draining", 1)
                return
            await asyncio.sleep(0.02)

    def close(self) -> None:
        """Ends the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join(timeout=30)

    # Everything below runs in the engine's thread.

    def _run(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._new or self._jobs or self._closed, _IDLE_SECONDS)
                if self._closed:
                    return
                new, self._new = self._new, []
                self._jobs += new
                if not self._jobs:
                    continue
            try:
                if new:
                    self.engine.add([job.request for job in new])
                with _COMPUTE_LOCK:
                    self.engine.step()
            except Exception as error:
                # The engine stores an error of one request in it; any other error may concern all of them.
                logger.exception("the engine of %s failed; all its requests are aborted", self._name)
                for job in self._jobs:
                    if not job.request.done:  # else its response is complete, and only has to be delivered
                        job.request.error = error
            self._report()

    def _report(self) -> None:
        """Delivers the results of a step, in one call per event loop, and drops finished jobs."""
        now = time.monotonic()
        updates: defaultdict[asyncio.AbstractEventLoop, list[tuple[Job, Updates]]] = defaultdict(list)
        finished: list[Job] = []
        for job in self._jobs:
            self._check_time(job, now)
            if job_updates := self._updates_of(job, now):
                updates[job.loop].append((job, job_updates))
            if job.request.done or job.ended_at is not None:
                finished.append(job)
        if finished:
            self._end(finished)
        for loop, loop_updates in updates.items():
            try:
                loop.call_soon_threadsafe(_deliver, loop_updates)
            except RuntimeError:
                logger.debug("the event loop of a finished request is closed")

    def _end(self, finished: list[Job]) -> None:
        """Counts and drops finished jobs, and frees their memory; an error is logged, since results must be sent."""
        with self._changed:
            self._jobs = [job for job in self._jobs if job not in finished]
        try:
            for job in finished:
                self._record(job)
            self.engine.settle()  # the next step would do it, but there may be none
        except Exception:
            logger.exception("%s: the memory of finished requests is not free yet: the next step retries", self._name)

    def _updates_of(self, job: Job, now: float) -> Updates:
        try:
            with nullcontext() if job.choose is None else _COMPUTE_LOCK:  # choosing runs the model
                return job.new_updates(now)
        except Exception as error:
            job.request.error = error
            return [error]

    def _check_time(self, job: Job, now: float) -> None:
        """Ends a request that has waited or run for too long."""
        request, settings = job.request, self._settings
        if request.done:
            return
        if job.begun_at is None and now - job.arrived > settings.wait_seconds:
            request.error = waited_too_long(settings.wait_seconds)
        elif job.begun_at is not None and now - job.begun_at > settings.run_seconds:
            message = f"the response took more than {settings.run_seconds:g} s: request fewer tokens"
            request.error = ApiError(504, message, type="server_error", code="run_limit")

    def _record(self, job: Job) -> None:
        """Counts and logs the outcome of a finished job."""
        request = job.request
        if job.begun_at is not None and job.ended_at is not None:
            self._mean_seconds += 0.2 * (job.ended_at - job.begun_at - self._mean_seconds)
        outcome = "cancelled" if request.cancelled else "failed" if request.error else "done"
        if isinstance(request.error, Exception) and not isinstance(request.error, ApiError):
            logger.error("a response of %s failed", self._name, exc_info=request.error)
        self._metrics.record_generation(self._name, job, outcome)


def _deliver(updates: list[tuple[Job, Updates]]) -> None:
    for job, job_updates in updates:
        job.deliver(job_updates)
