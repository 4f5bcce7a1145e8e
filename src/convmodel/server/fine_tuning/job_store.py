"""The jobs of a server, in files that a restarted server reads.

Owns: the folder `jobs`, what is recorded of a job, and its events. Does not know how a job runs.
"""

import json
import logging
import secrets
import shutil
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from convmodel.errors import SaveError
from convmodel.files.json_lines import append_line
from convmodel.server.fine_tuning.hyperparameters import Method
from convmodel.server.fine_tuning.record_folder import RecordFolder
from convmodel.training.metrics_reader import METRICS_FILE

logger = logging.getLogger(__name__)

Status: TypeAlias = Literal["validating_files", "queued", "running", "paused", "succeeded", "failed", "cancelled"]
Level: TypeAlias = Literal["info", "warn", "error"]

STARTED: tuple[Status, ...] = ("validating_files", "running")
"""The statuses of jobs that have a process, or had one when the server was killed."""

UNFINISHED: tuple[Status, ...] = (*STARTED, "queued", "paused")
"""The statuses of jobs that need their files."""

_JOB, _EVENTS = "job.json", "events.jsonl"


@dataclass(frozen=True, slots=True)
class JobSpec:
    """What a client ordered.

    Attributes:
        model: The model to train, as the client named it.
        base: The id of the served model that it is, or comes from.
        source: What to load.
        training_file: The id of the file to train on.
        validation_file: The id of the file to validate on, if any.
        method: What is learned.
        hyperparameters: Their values; `auto` where the data decide.
        seed: The seed.
        suffix: The client's part of the new model's name.
        metadata: Whatever the client wants to find again.
    """

    model: str
    base: str
    source: str
    training_file: str
    method: Method
    hyperparameters: dict[str, Any]
    seed: int
    validation_file: str | None = None
    suffix: str | None = None
    metadata: dict[str, str] | None = None

    @property
    def files(self) -> tuple[str, ...]:
        """The ids of its files."""
        return (self.training_file, *filter(None, [self.validation_file]))


@dataclass(frozen=True, slots=True)
class JobRecord:
    """A job.

    Attributes:
        id: Its id.
        created_at: When it was created, in seconds since 1970; of jobs created in one second, the order counts.
        spec: What was ordered.
        status: Its status.
        finished_at: When it ended.
        error: Why it failed: `code`, `message` and `param`.
        result_files: The ids of the files with its metrics.
        trained_tokens: How many tokens it trained on.
        pid: Its process; 0 before the first one.
        deaths: How often its process was killed since it last made progress.
        progress: The step of the newest checkpoint when the process was killed last.
        deleted: Whether its model was deleted.
        queued_at: When it began to wait, in seconds since 1970.
    """

    id: str
    created_at: float
    spec: JobSpec
    status: Status = "queued"
    finished_at: int | None = None
    error: dict[str, str | None] | None = None
    result_files: list[str] = field(default_factory=list)
    trained_tokens: int | None = None
    pid: int = 0
    deaths: int = 0
    progress: int = 0
    deleted: bool = False
    queued_at: float = 0.0

    @property
    def model_name(self) -> str:
        """The name of the model that it makes, in the form of OpenAI's."""
        return f"ft:{self.spec.base}:{self.spec.suffix or ''}:{self.id[-8:]}"

    def describe(self) -> dict[str, Any]:
        """Returns it in the form of OpenAI's API."""
        spec, has_model = self.spec, self.status == "succeeded" and not self.deleted
        return {
            "object": "fine_tuning.job",
            "id": self.id,
            "created_at": int(self.created_at),
            "finished_at": self.finished_at,
            "model": spec.model,
            "fine_tuned_model": self.model_name if has_model else None,
            "organization_id": "convmodel",
            "status": self.status,
            "training_file": spec.training_file,
            "validation_file": spec.validation_file,
            "hyperparameters": {name: value for name, value in spec.hyperparameters.items() if name != "beta"},
            "method": {"type": spec.method, spec.method: {"hyperparameters": spec.hyperparameters}},
            "seed": spec.seed,
            "metadata": spec.metadata,
            "result_files": self.result_files,
            "trained_tokens": self.trained_tokens,
            "error": self.error,
            "estimated_finish": None,
            "integrations": [],
            "user_provided_suffix": spec.suffix,
        }


class JobStore(RecordFolder[JobRecord]):
    """The jobs in one folder, each in a folder of its own; a change is written before it counts."""

    def __init__(self, folder: Path) -> None:
        """Reads the jobs of an earlier server.

        Raises:
            ConfigError: If a record is damaged.
            SaveError: If the folder cannot be written.
        """
        super().__init__(folder, _JOB, _parse, what="fine-tuning job", unknown="fine_tune_not_found")

    def create(self, spec: JobSpec) -> JobRecord:
        """Records a new job; raises `SaveError` if it cannot be written."""
        now = time.time()
        return self.add(JobRecord(f"ftjob-{secrets.token_hex(12)}", now, spec, queued_at=now))

    def model(self, id: str) -> Path:
        """Returns the folder of the run, which holds the model at its end."""
        return self.path(id) / "model"

    def check(self, id: str) -> Path:
        """Returns the file for what `convmodel doctor` prints."""
        return self.path(id) / "check.json"

    def result(self, id: str) -> Path:
        """Returns the file for what `convmodel fit` prints."""
        return self.path(id) / "result.json"

    def metrics(self, id: str) -> Path:
        """Returns where a job's metrics are: in its run, or, if that was removed, beside it."""
        kept = self.path(id) / METRICS_FILE
        return kept if kept.exists() else self.model(id) / METRICS_FILE

    def drop_model(self, id: str) -> None:
        """Removes the run of a job, checkpoints and weights; its metrics stay."""
        metrics = self.model(id) / METRICS_FILE
        with suppress(OSError):
            if metrics.exists():
                metrics.replace(self.path(id) / METRICS_FILE)
        shutil.rmtree(self.model(id), ignore_errors=True)

    def report(self, id: str, message: str, level: Level = "info", data: Mapping[str, Any] | None = None) -> None:
        """Adds an event; that one cannot be written is logged, without its message, which may quote the data."""
        event = {"id": f"ftevent-{secrets.token_hex(12)}", "time": time.time(), "level": level, "message": message}
        try:
            append_line(self.path(id) / _EVENTS, event | {"data": dict(data or {})})
        except SaveError:
            logger.exception("an event of %s is not recorded", id)

    def events(self, id: str) -> list[dict[str, Any]]:
        """Returns the events in order, with `time` in seconds since 1970."""
        self.get(id)
        events = []
        with suppress(FileNotFoundError):
            for line in (self.path(id) / _EVENTS).read_bytes().splitlines():
                with suppress(ValueError):  # a half line, which a killed server left
                    events.append(json.loads(line))
        return [event for event in events if isinstance(event, dict) and "time" in event]


def _parse(content: dict[str, Any]) -> JobRecord:
    job = JobRecord(**content | {"spec": JobSpec(**content["spec"])})
    if job.status not in get_args(Status) or type(job.pid) is not int:
        raise ValueError(job)
    return job
