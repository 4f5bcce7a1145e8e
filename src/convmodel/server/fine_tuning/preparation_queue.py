"""The queue of preparations: importing clients' files, and checking what became of them.

Owns: the order, the processes, their time limit, and how each preparation ends. What the processes do is in
`import_command` and `commands`, what is recorded in `preparation_store`.
"""

import hashlib
import logging
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from convmodel.errors import SaveError
from convmodel.server.errors import ApiError
from convmodel.server.fine_tuning import import_command
from convmodel.server.fine_tuning.commands import Data, check_command, read_findings
from convmodel.server.fine_tuning.file_store import FileStore
from convmodel.server.fine_tuning.hyperparameters import RESPONDER, resolve
from convmodel.server.fine_tuning.job_store import JobSpec
from convmodel.server.fine_tuning.preparation_store import UNDER_WAY, PreparationRecord, PreparationStore
from convmodel.server.fine_tuning.source_names import client_names, renamed
from convmodel.server.serving.background_process import BackgroundProcess, last_error
from convmodel.server.settings import TrainingLimits
from convmodel.training.config import FitConfig

logger = logging.getLogger(__name__)

_CHECK_SECONDS = 0.2  # between two looks at whether a process has ended
_END_SECONDS = 3.0  # to wait for processes when the server stops
_LEFTOVER_SECONDS = 10.0  # to wait for a process that a killed server has left
_LONGEST_MESSAGE = 4000  # characters; the importer's name formats, and quote the file
_PREFIX = "convmodel: "  # of an error in a terminal
_RESULT = "result.json"
_NAMED = ("notes", "first_problems", "carried")  # where a summary names files
_JUDGED = (
    "to learn from both responses on this server, upload the file with the purpose fine-tune, and create a job with "
    "the method dpo"
)


class _FailedError(Exception):
    """A preparation cannot be completed, for the client's reason or the server's."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class PreparationQueue:
    """Runs preparations in the order in which they were created, a limited number at a time."""

    def __init__(
        self, store: PreparationStore, files: FileStore, limits: TrainingLimits, command: Sequence[str]
    ) -> None:
        """Runs nothing yet; `command` is `convmodel`, to which arguments are appended."""
        self._store = store
        self._files = files
        self._limits = limits
        self._command = command
        self._waiting: SimpleQueue[str | None] = SimpleQueue()
        self._lock = threading.RLock()  # held while a preparation changes
        self._closed = False
        self._processes: dict[str, BackgroundProcess] = {}
        for record in store.all():
            if record.status in UNDER_WAY:
                self._waiting.put(record.id)

    def start(self) -> None:
        """Starts threads that run the preparations, those first that ran when an earlier server ended."""
        for number in range(self._limits.preparations_at_once):
            threading.Thread(target=self._work, name=f"preparation {number}", daemon=True).start()

    def close(self) -> None:
        """Ends the running processes; the next server starts them again."""
        with self._lock:
            self._closed = True
            processes = [*self._processes.values()]
        for process in processes:
            process.stop()
        for _ in range(self._limits.preparations_at_once):
            self._waiting.put(None)
        end = time.monotonic() + _END_SECONDS
        for process in processes:
            process.wait(max(0.0, end - time.monotonic()))

    def add(self, id: str) -> None:
        """Adds a preparation that was created."""
        self._waiting.put(id)

    def remove(self, id: str) -> PreparationRecord:
        """Ends a preparation, and removes its record and its folder; raises an `ApiError` if there is none.

        Returns:
            The record as it was at the end: the import may have ended since a caller has read it.
        """
        with self._lock:
            record = self._store.get(id)
            process = self._processes.get(id) or self._earlier(id)
            self._store.forget(id)
            process.stop()
        return record

    def _work(self) -> None:
        while (id := self._waiting.get()) is not None:
            try:
                self._run(id)
            except _FailedError as error:
                self._fail(id, error.code, str(error))
            except ApiError as error:  # of the store of files: it is full
                self._fail(id, error.envelope["error"]["code"] or "invalid_request", str(error))
            except Exception as error:  # the queue must go on
                logger.exception("%s failed", id)
                self._fail(id, "server_error", str(error) if isinstance(error, SaveError) else type(error).__name__)
            finally:
                with self._lock:
                    self._processes.pop(id, None)
                    if self._store.find(id) is None:
                        self._store.remove_rest(id)

    def _run(self, id: str) -> None:
        """Runs a preparation to its end, or until the server stops or a client deletes it."""
        if (record := self._store.find(id)) is None:
            return
        if record.status == "importing" and not self._import(record):
            return
        if (record := self._store.find(id)) is not None and record.status == "checking":
            self._check(record)

    def _import(self, record: PreparationRecord) -> bool:
        """Imports the files of a preparation; returns whether it has ended, and was neither stopped nor deleted."""
        id, spec, folder = record.id, record.spec, self._store.path(record.id)
        names = client_names(spec.filenames)
        while True:
            try:
                import_command.lay_out(folder, [self._files.path(file) for file in spec.files], spec.filenames)
            except OSError as error:
                raise _FailedError("import_failed", f"the files cannot be read: {error.strerror}") from error
            line = import_command.import_command(self._command, spec, alone=record.alone)
            code = self._finish(id, line, folder=folder / import_command.INPUT)
            if code is None:
                return False
            result = import_command.read_result(folder / _RESULT) if code == 0 else None
            if result is not None:
                self._keep(record, result)
                return True
            if code == 0 and import_command.is_too_large(folder / _RESULT):
                fix = "import it with `convmodel import` in a terminal, and upload its train.jsonl"
                raise _FailedError("import_failed", f"the summary has too many names of speakers to be shown: {fix}")
            failure = self._failure(id, code, "import_failed", names)
            if record.alone or not import_command.is_too_few(str(failure)):
                raise failure
            with self._lock:
                if self._store.find(id) is None:
                    return False
                record = self._store.change(id, alone=True)

    def _keep(self, record: PreparationRecord, result: dict[str, Any]) -> None:
        """Records what was imported, and stores the files that it made, unless nobody knows yet whom to learn."""
        id, spec, folder = record.id, record.spec, self._store.path(record.id)
        names = client_names(spec.filenames)
        result |= {key: renamed(result[key], names) for key in _NAMED}
        if "judgements" in result["formats"]:
            result["notes"].append(_JUDGED)
        speakers = import_command.speakers_of(result)
        shown = import_command.shortened(speakers)
        fields: dict[str, Any] = {
            "summary": import_command.shortened(result),
            "speakers": shown,
            "more_speakers": len(speakers) - len(shown),
        }
        with self._lock:
            if self._store.find(id) is None:
                return
            if spec.me is None and RESPONDER not in result["speaker_turns"]:
                self._store.change(id, status="needs_speaker", **fields)
            else:
                self._keep_files(record, fields)
            import_command.clear(folder)

    def _keep_files(self, record: PreparationRecord, fields: Mapping[str, Any]) -> None:
        """Stores the files that an import has made, and records them with some fields: all of this, or nothing."""
        id, stem = record.id, Path(record.spec.filenames[0]).stem
        made = import_command.made_files(self._store.path(id))
        ids = {part: f"file-{hashlib.sha256(f'{id} {part}'.encode()).hexdigest()[:24]}" for part in made}
        try:
            for part, path in made.items():
                self._files.take(path, f"{stem}.{part}.jsonl", "fine-tune", id=ids[part])
            files = {"training_file": ids["train"], "validation_file": ids.get("valid")}
            self._store.change(id, status="checking", **files, **fields)
        except Exception:
            for file in filter(self._files.has, ids.values()):
                self._files.delete(file)  # no record has it, so that nobody would remove it with the preparation
            raise

    def _check(self, record: PreparationRecord) -> None:
        """Checks the files that a preparation made."""
        id, spec = record.id, record.spec
        assert record.training_file is not None
        valid = record.validation_file
        job = JobSpec(
            spec.model, spec.model, spec.source, record.training_file, "supervised", resolve("supervised", {}, ""),
            FitConfig().seed, valid,
        )  # fmt: skip
        data = Data(self._files.path(record.training_file), None if valid is None else self._files.path(valid))
        names = {str(self._files.path(file)): self._files.get(file).filename for file in record.made}
        names[spec.source] = spec.model
        code = self._finish(id, check_command(self._command, job, data, estimate=True))
        if code is None:
            return
        output = self._store.path(id) / _RESULT
        result, findings = import_command.read_result(output), read_findings(output)
        if result is None or findings is None:
            raise self._failure(id, code, "check_failed", names)
        with self._lock:
            if self._store.find(id) is not None:
                found = renamed(findings, names)
                self._store.change(id, status="ready", checks=found, estimate=result.get("estimate"))

    def _finish(self, id: str, line: Sequence[str], *, folder: Path | None = None) -> int | None:
        """Runs a command to its end and returns its exit code; None if the server stops or a client deletes the record.

        Raises:
            _FailedError: If it takes too long.
        """
        place = self._store.path(id)
        earlier = self._earlier(id)
        earlier.stop()
        earlier.wait(_LEFTOVER_SECONDS)
        with self._lock:
            if self._closed or self._store.find(id) is None:
                return None
            self._store.force(id, pid=0)  # if the server is killed now, a later process may have the number
            process = BackgroundProcess(self._store.log(id), what="preparation", output=place / _RESULT, folder=folder)
            process.start(line)
            self._store.force(id, pid=process.pid)
            self._processes[id] = process
        logger.info("%s runs in process %s; its log is %s", id, process.pid, self._store.log(id))
        end = time.monotonic() + self._limits.preparation_seconds
        is_late = False
        while process.running:
            process.wait(_CHECK_SECONDS)
            if time.monotonic() > end and process.running:
                is_late = True
                process.stop()
        if self._closed or self._store.find(id) is None:
            return None
        if is_late:
            limit = f"{self._limits.preparation_seconds:,g} s"
            raise _FailedError("time_limit", f"it was not done within {limit}: split the files, and train on some")
        return process.exit_code

    def _earlier(self, id: str) -> BackgroundProcess:
        """Returns the process that a killed server has left, if it still runs."""
        record = self._store.find(id)
        return BackgroundProcess(self._store.log(id), 0 if record is None else record.pid)

    def _failure(self, id: str, code: int, kind: str, names: Mapping[str, str]) -> _FailedError:
        """Returns what a process that failed would say in a terminal, with the clients' names of files."""
        if code < 0:
            message = f"the process was killed (exit code {code}): is there too little memory?"
            return _FailedError("process_killed", message)
        message = last_error(self._store.log(id), _LONGEST_MESSAGE).removeprefix(_PREFIX)
        return _FailedError(kind, renamed(message, names))

    def _fail(self, id: str, code: str, message: str) -> None:
        """Ends a preparation with an error, and removes the copies of its files."""
        with self._lock:
            if self._closed or self._store.find(id) is None:
                return
            import_command.clear(self._store.path(id))  # first, so that there is room on the disk to record the rest
            self._store.force(id, status="failed", error={"code": code, "message": message})
            logger.error("%s failed (%s); its log is %s", id, code, self._store.log(id))  # the message may quote a chat
