"""The latest improvement of a server: starting or resuming it, its end, and its description.

Owns: how an improvement can end, and which one can be resumed. Does not know which model is served.
"""

import logging
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from convmodel.errors import SaveError
from convmodel.server.serving.background_process import BackgroundProcess, last_error
from convmodel.server.serving.improvement_counts import JudgementCounts
from convmodel.server.serving.improvement_file import ImprovementFile, JobRecord, JobState, changed
from convmodel.server.serving.improvement_job import Progress
from convmodel.training.improvement import read_record

logger = logging.getLogger(__name__)


_CHECK_SECONDS = 0.2  # between two looks at whether the process has ended
_END_SECONDS = 3.0  # to wait for the process when the server stops; it may take longer, and is not ended by force


@dataclass(frozen=True, slots=True)
class RunView:
    """An improvement at one time."""

    job: JobRecord
    state: str
    folder: Path
    progress: Progress | None

    def describe(self) -> dict[str, Any]:
        """Returns it for clients; reads files."""
        job = self.job
        return {
            "model": job.model,
            "version": job.folder,
            "state": self.state,
            "error": job.error,
            "resumable": _can_resume(job, job.model),
            "progress": {} if self.progress is None else self.progress.read(),
            "result": read_record(self.folder) if job.state == "done" else None,
        }


def _can_resume(job: JobRecord, name: str) -> bool:
    """Returns whether it is an improvement of this model that was stopped; it keeps a copy of its judgements."""
    return job.model == name and job.state in ("cancelled", "interrupted")


class ImprovementRun:
    """The process of the latest improvement, and its record; all methods are called with the lock held."""

    def __init__(
        self,
        file: ImprovementFile,
        feedback: Sequence[Path],
        command: Sequence[str],
        lock: threading.RLock,
        on_done: Callable[[JobRecord, Mapping[str, Any]], None],
    ) -> None:
        """Finds the improvement that an earlier server left.

        Args:
            file: Where it is recorded.
            feedback: The files of judgements.
            command: The command that improves a model; its arguments are appended.
            lock: Held while anything changes.
            on_done: Called with the lock held when an improvement has written its model, with what it reports.
        """
        self._file = file
        self._command = command
        self._lock = lock
        self._on_done = on_done
        self.counts = JudgementCounts(feedback)
        self._cancelled = self._closed = False
        job = file.job
        self._process = None if job is None else BackgroundProcess(file.log(job.folder), job.pid)
        self._progress = None if job is None else Progress(file.folder / job.folder)

    @property
    def job(self) -> JobRecord | None:
        """Its record; None before the first improvement."""
        return self._file.job

    @property
    def running(self) -> bool:
        """Whether it has not ended yet."""
        return self.job is not None and self.job.state == "running"

    def start(self, name: str, taken: Collection[str], feedback: Sequence[Path]) -> None:
        """Starts an improvement of a model, or resumes it.

        Args:
            name: The model's id.
            taken: What the folder of a new one is not called.
            feedback: The files that have judgements.

        Raises:
            SaveError: If the process cannot be started, or not be recorded.
        """
        job = self.job
        if job is not None and _can_resume(job, name):
            folder, pid = job.folder, job.pid
        else:
            folder, pid = self._file.new_name(name, taken), 0
        place = self._file.folder / folder
        arguments = [part for path in feedback for part in ("--feedback", str(path))]
        command = [*self._command, self._file.source(name), *arguments, "--output-dir", str(place), "--json"]
        process = BackgroundProcess(self._file.log(folder), pid)
        process.start(command)
        try:
            self._file.record(JobRecord(name, folder, pid=process.pid))
        except BaseException:
            process.stop()
            process.wait(_END_SECONDS)
            raise
        self._process, self._progress, self._cancelled = process, Progress(place), False
        logger.info("improving %s in process %s; its log is %s", name, process.pid, self._file.log(folder))
        self.watch()

    def watch(self) -> None:
        """Waits in a thread for the end of the process."""
        threading.Thread(target=self._wait_for_end, name="improvement", daemon=True).start()

    def cancel(self) -> None:
        """Stops the process after its current step."""
        self._cancelled = True
        if self._process is not None:
            self._process.stop()

    def close(self) -> None:
        """Stops the process because the server stops; it can be resumed."""
        self._closed = True
        job, process = self.job, self._process
        if self.running and job is not None and process is not None:
            process.stop()
            process.wait(_END_SECONDS)
            if not process.running:
                self._end(*self._ended(job, process))

    def view(self) -> "RunView | None":
        """Returns what to describe; None before the first improvement."""
        job = self.job
        if job is None:
            return None
        state = "cancelling" if self.running and self._cancelled else job.state
        return RunView(job, state, self._file.folder / job.folder, self._progress)

    def _wait_for_end(self) -> None:
        """Waits without the lock, and then records the end with it."""
        process, job = self._process, self.job
        assert process is not None
        assert job is not None
        while process.running and not self._closed:
            process.wait(_CHECK_SECONDS)
        job, result = self._ended(job, process)
        with self._lock:
            if not self._closed:
                self._end(job, result)

    def _ended(self, job: JobRecord, process: BackgroundProcess) -> tuple[JobRecord, Mapping[str, Any]]:
        """Returns the record of an improvement whose process has ended, and its report; needs no lock."""
        result = read_record(self._file.folder / job.folder)
        state, error = self._ended_state(process, has_result=result is not None), ""
        if state == "failed":
            log = self._file.log(job.folder)
            error = last_error(log)
            logger.error("the improvement of %s failed; its log is %s", job.model, log)  # the error may quote the data
        return changed(job, state, error), result or {}

    def _end(self, job: JobRecord, result: Mapping[str, Any]) -> None:
        try:
            self._file.record(job)
        except SaveError:
            logger.exception("the end of the improvement of %s is not recorded", job.model)
            self._file.job = job  # a restarted server finds out again how it has ended
        if job.state == "done" and not self._closed:
            self._on_done(job, result)

    def _ended_state(self, process: BackgroundProcess, *, has_result: bool) -> JobState:
        if has_result and (self._cancelled or not process.failed):
            return "done"  # also if it was cancelled after it had written its model
        if self._cancelled:
            return "cancelled"
        return "interrupted" if self._closed or not process.own else "failed"
