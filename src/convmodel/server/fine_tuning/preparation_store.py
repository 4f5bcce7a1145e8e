"""The preparations of a server: what a client's files became, in files that a restarted server reads.

Owns: the folder `preparations`, and what is recorded of one. Does not know how one runs.
"""

import secrets
import shutil
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

from convmodel.data.reading.problems import OnError
from convmodel.server.fine_tuning.commands import blocking
from convmodel.server.fine_tuning.record_folder import RecordFolder

Status: TypeAlias = Literal["importing", "needs_speaker", "checking", "ready", "failed"]

UNDER_WAY: tuple[Status, ...] = ("importing", "checking")
"""The statuses of preparations that wait or run, and need their files."""

_FILE = "preparation.json"


@dataclass(frozen=True, slots=True)
class PreparationSpec:
    """What a client ordered.

    Attributes:
        files: The ids of the files to import.
        filenames: Their clients' names.
        model: The model that is to be trained, as the client named it.
        source: What to load.
        me: The speaker to learn; None if the data have one called `assistant`, or to find out who speaks.
        merge_others: Whether all others become one speaker.
        redact: Whether personal data are masked.
        on_error: Whether what cannot be read ends the import, or is left out.
    """

    files: list[str]
    filenames: list[str]
    model: str
    source: str
    me: str | None = None
    merge_others: bool = False
    redact: bool = False
    on_error: OnError = "fail"


@dataclass(frozen=True, slots=True)
class PreparationRecord:
    """A preparation.

    Attributes:
        id: Its id.
        created_at: When it was created, in seconds since 1970; of those created in one second, the order counts.
        spec: What was ordered.
        status: Its status.
        error: Why it failed: `code` and `message`.
        summary: The import's summary.
        speakers: Who speaks, those with most turns first.
        more_speakers: How many more there are.
        training_file: The id of the file to train on that it made.
        validation_file: The id of the file to validate on that it made, if there are enough conversations.
        checks: The doctor's findings.
        estimate: What the doctor estimates of a run.
        pid: Its process; 0 before the first one.
        alone: Whether there are too few conversations for a validation file.
    """

    id: str
    created_at: float
    spec: PreparationSpec
    status: Status = "importing"
    error: dict[str, str] | None = None
    summary: dict[str, Any] | None = None
    speakers: list[dict[str, Any]] = field(default_factory=list)
    more_speakers: int = 0
    training_file: str | None = None
    validation_file: str | None = None
    checks: list[dict[str, Any]] | None = None
    estimate: dict[str, Any] | None = None
    pid: int = 0
    alone: bool = False

    @property
    def made(self) -> Sequence[str]:
        """The ids of the files that it made."""
        return [id for id in (self.training_file, self.validation_file) if id is not None]

    def describe(self) -> dict[str, Any]:
        """Returns it as clients see it."""
        spec = self.spec
        return {
            "object": "train.preparation",
            "id": self.id,
            "created_at": int(self.created_at),
            "files": spec.files,
            "filenames": spec.filenames,
            "model": spec.model,
            "me": spec.me,
            "merge_others": spec.merge_others,
            "redact": spec.redact,
            "on_error": spec.on_error,
            "status": self.status,
            "error": self.error,
            "summary": self.summary,
            "speakers": self.speakers,
            "more_speakers": self.more_speakers,
            "training_file": self.training_file,
            "validation_file": self.validation_file,
            "checks": self.checks,
            "blocking": blocking(self.checks or []),
            "estimate": self.estimate,
        }


class PreparationStore(RecordFolder[PreparationRecord]):
    """The preparations in one folder, each in a folder of its own."""

    def __init__(self, folder: Path) -> None:
        """Reads the preparations of an earlier server, and removes what is left of deleted ones.

        Raises:
            ConfigError: If a record is damaged.
            SaveError: If the folder cannot be written.
        """
        super().__init__(folder, _FILE, _parse, what="preparation", unknown="preparation_not_found")
        for path in folder.glob("prep-*"):
            if not (path / _FILE).exists():
                shutil.rmtree(path, ignore_errors=True)

    def create(self, spec: PreparationSpec) -> PreparationRecord:
        """Records a new preparation; raises `SaveError` if it cannot be written."""
        return self.add(PreparationRecord(f"prep-{secrets.token_hex(12)}", time.time(), spec))

    def remove_rest(self, id: str) -> None:
        """Removes the folder of a preparation that was deleted while a process wrote into it."""
        shutil.rmtree(self.path(id), ignore_errors=True)


def _parse(content: Mapping[str, Any]) -> PreparationRecord:
    record = PreparationRecord(**{**content, "spec": PreparationSpec(**content["spec"])})
    if record.status not in get_args(Status) or type(record.pid) is not int:
        raise ValueError(record)
    return record
