"""The queue of fine-tuning jobs: which one runs, and how each ends.

Owns: the order, the processes, and what happens when one ends, is killed, or outlives its server. What a process does
is in `commands`, what is recorded of a job in `job_store`.
"""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from convmodel.server.errors import ApiError
from convmodel.server.fine_tuning import commands
from convmodel.server.fine_tuning.commands import Data
from convmodel.server.fine_tuning.job_store import STARTED, UNFINISHED, JobRecord, JobStore, Status
from convmodel.server.serving.background_process import BackgroundProcess, last_error
from convmodel.training.resume.run_folder import newest_step

logger = logging.getLogger(__name__)

MAX_DEATHS = 5  # of a job's process without a new checkpoint between them

_CHECK_SECONDS = 0.2  # between two looks at whether a process has ended
_END_SECONDS = 3.0  # to wait for a process when the server stops; it may take longer, and is not ended by force
_SIGNALS = 128  # exit codes above are those of signals


class JobQueue:
    """Runs jobs in the order in which they were created or resumed, a limited number at a time."""

    def __init__(
        self,
        store: JobStore,
        data: Callable[[JobRecord], Data],
        finish: Callable[[JobRecord], None],
        command: Sequence[str] = commands.COMMAND,
    ) -> None:
        """Runs nothing yet.

        Args:
            store: The jobs.
            data: Returns the files of a job.
            finish: Called when a job has written its model.
            command: `convmodel`; its arguments are appended.
        """
        self._store = store
        self._data = data
        self._finish = finish
        self._command = command
        self._changed = threading.Condition(threading.RLock())
        self._closed = False
        self._taken: set[str] = set()  # jobs that a worker cares for
        self._processes: dict[str, BackgroundProcess] = {}
        waiting = sorted((job for job in store.all() if job.status == "queued"), key=lambda one: one.queued_at)
        self._order = [job.id for job in (*(job for job in store.all() if job.status in STARTED), *waiting)]

    def start(self, workers: int) -> None:
        """Starts threads that run the jobs, those first that ran when an earlier server ended."""
        self._end_leftovers()
        for number in range(workers):
            threading.Thread(target=self._work, name=f"fine-tuning {number}", daemon=True).start()

    def close(self) -> None:
        """Stops the running jobs, which the next server resumes."""
        with self._changed:
            self._closed = True
            processes = [*self._processes.values()]
            self._changed.notify_all()
        for process in processes:
            process.stop()
        end = time.monotonic() + _END_SECONDS
        for process in processes:
            process.wait(max(0.0, end - time.monotonic()))

    def add(self, id: str) -> None:
        """Adds a job that was created."""
        with self._changed:
            self._order.append(id)
            self._changed.notify_all()

    def pause(self, id: str) -> JobRecord:
        """Stops a job after its current step, until it is resumed; raises an `ApiError` if it has ended."""
        return self._stop(id, "paused", "The job was paused; resume it to continue.")

    def cancel(self, id: str) -> JobRecord:
        """Ends a job after its current step, and removes its checkpoints; raises an `ApiError` if it has ended."""
        return self._stop(id, "cancelled", "The job was cancelled; its checkpoints are removed.")

    def forget(self, id: str) -> None:
        """Removes a job that has ended, unless it still stops."""
        with self._changed:
            if id not in self._taken:
                self._store.forget(id)
                logger.info("%s is removed: there are too many jobs that have ended", id)

    def resume(self, id: str) -> JobRecord:
        """Puts a paused job at the end of the queue; raises an `ApiError` if it is not paused."""
        with self._changed:
            job = self._store.get(id)
            if job.status != "paused":
                raise _conflict(job, "resumed")
            job = self._store.change(id, status="queued", queued_at=time.time(), deaths=0)
            self._store.report(id, "The job waits to be resumed.")
            self.add(id)
            return job

    def _stop(self, id: str, status: Status, message: str) -> JobRecord:
        with self._changed:
            job = self._store.get(id)
            if job.status not in UNFINISHED or job.status == status:
                raise _conflict(job, status)
            if status == "cancelled":  # also if the disk is full: that makes room
                self._store.force(id, status=status, finished_at=int(time.time()))
            else:
                self._store.change(id, status=status)
            self._store.report(id, message)
            self._order = [other for other in self._order if other != id]
            if (process := self._processes.get(id)) is not None:
                process.stop()
            elif status == "cancelled" and id not in self._taken:
                self._drop(id)
            return self._store.get(id)

    def _drop(self, id: str) -> None:
        """Removes the checkpoints of a cancelled job, and records again that it is: now there is room on the disk."""
        self._store.drop_model(id)
        self._store.force(id, status="cancelled")

    def _end_leftovers(self) -> None:
        """Stops and removes what a killed server had no time to; what a process still writes, the next one removes."""
        for job in self._store.all():
            process = BackgroundProcess(self._store.log(job.id), job.pid)
            if job.status in ("paused", "cancelled"):
                process.stop()
            is_left = job.status == "cancelled" or job.deleted
            if is_left and self._store.model(job.id).exists() and not process.running:
                self._store.drop_model(job.id)

    def _work(self) -> None:
        while (id := self._take()) is not None:
            try:
                self._run(id)
            except Exception as error:  # the queue must go on
                logger.exception("%s failed", id)
                self._fail(id, "server_error", str(error) or type(error).__name__, keep=True)
            finally:
                with self._changed:
                    self._taken.discard(id)
                    self._processes.pop(id, None)
                    if not self._closed and self._store.get(id).status == "cancelled":
                        self._drop(id)
                    self._changed.notify_all()

    def _take(self) -> str | None:
        """Waits for the next job; None when the server stops."""
        with self._changed:
            while not self._closed:
                id = next((id for id in self._order if id not in self._taken), None)
                if id is not None:
                    self._order.remove(id)
                    self._taken.add(id)
                    return id
                self._changed.wait()
            return None

    def _run(self, id: str) -> None:
        """Runs a job to its end, or until it is stopped."""
        job, store = self._store.get(id), self._store
        data, output = self._data(job), store.check(id)
        if commands.read_findings(output) is None:
            line = commands.check_command(self._command, job.spec, data)
            if not self._finish_process(id, "validating_files", line, partial(_is_checked, output)):
                return
        self._report_findings(id)
        if problem := commands.blocking(commands.read_findings(output) or []):
            self._fail(id, "invalid_training_file", problem, "training_file")
            return
        line = commands.fit_command(self._command, job, data, store.model(id))
        if self._finish_process(id, "running", line, lambda: commands.is_trained(store.model(id))):
            with self._changed:
                if store.get(id).status == "running":
                    self._finish(store.get(id))

    def _finish_process(self, id: str, status: Status, line: Sequence[str], is_done: Callable[[], bool]) -> bool:
        """Runs a command until it has done its work, again if it is killed; False if the job has ended otherwise."""
        while not is_done():
            process = self._process(id, status, line)
            if process is None:
                return False
            while process.running and not self._closed:
                process.wait(_CHECK_SECONDS)
            if self._closed or not (is_done() or self._may_restart(id, process, status)):
                return False
        return self._store.get(id).status == status or self._set_status(id, status)

    def _process(self, id: str, status: Status, line: Sequence[str]) -> BackgroundProcess | None:
        """Returns the process of a job, which an earlier server started, or a new one; None if it may not run."""
        with self._changed:
            job = self._store.get(id)
            if self._closed or job.status not in (*STARTED, "queued"):
                return None
            output = self._store.check(id) if status == "validating_files" else self._store.result(id)
            process = BackgroundProcess(self._store.log(id), job.pid, what="job", output=output)
            if not process.running:
                if job.pid:  # if the server is killed before it knows the next one, this one may be another program's
                    self._store.force(id, pid=0)
                process.start(line)
                if job.status != status:
                    what = "Checking the files." if status == "validating_files" else "Training has started."
                    self._store.report(id, what)
                logger.info("%s runs in process %s; its log is %s", id, process.pid, self._store.log(id))
            self._store.force(id, status=status, pid=process.pid)
            self._processes[id] = process
            return process

    def _set_status(self, id: str, status: Status) -> bool:
        with self._changed:
            if self._closed or self._store.get(id).status not in (*STARTED, "queued"):
                return False
            self._store.force(id, status=status)
            return True

    def _may_restart(self, id: str, process: BackgroundProcess, status: Status) -> bool:
        """Returns whether to start a process again that has ended before its work was done."""
        with self._changed:
            job = self._store.get(id)
            if job.status not in STARTED:
                return False  # it was paused or cancelled, and may be in the queue again
            code = process.exit_code
            if code is not None and 0 <= code <= _SIGNALS:
                is_check = status == "validating_files"
                kind = ("invalid_training_file", "training_file") if is_check else ("training_failed", None)
                self._fail(id, kind[0], self._shown(job, last_error(self._store.log(id))), kind[1])
                return False
            progress = newest_step(self._store.model(id))
            deaths = 1 if progress > job.progress else job.deaths + (code is not None)
            if deaths > MAX_DEATHS:
                problem = f"the process was killed {deaths} times without progress (exit code {code})"
                self._fail(id, "training_killed", f"{problem}: is there too little memory?")
                return False
            self._store.force(id, deaths=deaths, progress=progress)
            resumed = f"from step {progress}" if progress else "from the beginning"
            self._store.report(id, f"The process was killed, and is started again {resumed}.", "warn")
            return True

    def _report_findings(self, id: str) -> None:
        """Reports what the doctor found, once, also if the job was paused or the server killed in between."""
        if any("check" in event["data"] for event in self._store.events(id)):
            return
        for check in commands.read_findings(self._store.check(id)) or []:
            message, level = commands.describe_finding(check)
            self._store.report(id, message, level, {"check": check})

    def _fail(self, id: str, code: str, message: str, param: str | None = None, *, keep: bool = False) -> None:
        """Ends a job with an error, and removes its checkpoints, unless to keep them; its metrics and its log stay."""
        with self._changed:
            if not keep:
                self._store.drop_model(id)  # first, so that there is room on the disk to record the rest
            self._store.report(id, f"The job failed: {message}", "error")
            error = {"code": code, "message": message, "param": param}
            self._store.force(id, status="failed", error=error, finished_at=int(time.time()))
            # Without the message, which may quote the data.
            logger.error("%s failed (%s); its log is %s", id, code, self._store.log(id))

    def _shown(self, job: JobRecord, message: str) -> str:
        """Returns a message of a process with the ids of files, which clients know, instead of their paths."""
        data = self._data(job)
        for path in filter(None, (data.train, data.valid)):
            message = message.replace(str(path), path.stem)
        return message.replace(str(self._store.path(job.id)), job.id)


def _is_checked(output: Path) -> bool:
    return commands.read_findings(output) is not None


def _conflict(job: JobRecord, status: str) -> ApiError:
    message = f"{job.id} is {job.status}, so it cannot be {status}"
    return ApiError(409, message, code=f"job_{job.status}")
