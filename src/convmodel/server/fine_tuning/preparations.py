"""Preparing clients' files for training: from any export to a checked training file.

Owns: what a preparation may be, what is in use, and how many there may be. Does not know HTTP, nor how one runs.
"""

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from convmodel.data.reading.problems import OnError
from convmodel.server.errors import ApiError
from convmodel.server.fine_tuning.file_store import FileStore
from convmodel.server.fine_tuning.preparation_queue import PreparationQueue
from convmodel.server.fine_tuning.preparation_store import (
    UNDER_WAY,
    PreparationRecord,
    PreparationSpec,
    PreparationStore,
)
from convmodel.server.settings import TrainingLimits

_SIZES = 3  # of the files: what an import writes while it works, the same as its result, and the room to move it


@dataclass(frozen=True, slots=True)
class PreparationOrder:
    """A preparation as a client orders it.

    Attributes:
        files: The ids of the files to import.
        model: The model that is to be trained.
        me: The speaker to learn; None if the data have one called `assistant`, or to find out who speaks.
        merge_others: Whether all others become one speaker.
        redact: Whether personal data are masked.
        on_error: Whether what cannot be read ends the import, or is left out.
    """

    files: Sequence[str]
    model: str
    me: str | None = None
    merge_others: bool = False
    redact: bool = False
    on_error: OnError = "fail"


class Preparations:
    """The preparations of one server; whoever calls `create`, `delete` or `forget_of` holds the service's lock."""

    def __init__(
        self,
        folder: Path,
        files: FileStore,
        limits: TrainingLimits,
        command: Sequence[str],
        needs: Callable[[str], bool],
    ) -> None:
        """Reads what an earlier server left.

        Args:
            folder: Where they are recorded.
            files: The uploaded files, to which what they make is added.
            limits: How many there may be.
            command: `convmodel`; its arguments are appended.
            needs: Returns whether an unfinished job needs a file.

        Raises:
            ConfigError: If a record is damaged.
            SaveError: If the folder cannot be written.
        """
        self._folder = folder
        self._files = files
        self._limits = limits
        self._needs = needs
        self._store = PreparationStore(folder)
        self._queue = PreparationQueue(self._store, files, limits, command)

    def start(self) -> None:
        """Runs the preparations that wait."""
        self._queue.start()

    def close(self) -> None:
        """Ends the running ones, which the next server starts again."""
        self._queue.close()

    def all(self) -> Sequence[PreparationRecord]:
        """Returns all preparations, the oldest first."""
        return self._store.all()

    def get(self, id: str) -> PreparationRecord:
        """Returns a preparation; raises an `ApiError` if there is none."""
        return self._store.get(id)

    def create(self, order: PreparationOrder, source: str) -> PreparationRecord:
        """Adds a preparation to the queue; `source` is what to load for the model.

        Raises:
            ApiError: If it is invalid, or there is no room for it.
            SaveError: If it cannot be recorded.
        """
        if order.merge_others and order.me is None:
            message = "merge_others needs the speaker to learn: send me too"
            raise ApiError(400, message, param="merge_others")
        if len({*order.files}) < len(order.files):
            raise ApiError(400, "files names one file twice: send each once", param="files")
        records = [self._files.get(id, param="files") for id in order.files]
        for record in records:
            if record.purpose == "fine-tune-results":
                message = f"{record.id} has the metrics of a job, and no conversations: leave it out"
                raise ApiError(400, message, param="files", code="invalid_file_purpose")
        self._check_room(sum(record.bytes for record in records))
        spec = PreparationSpec(
            [*order.files], [record.filename for record in records], order.model, source, order.me,
            order.merge_others, order.redact, order.on_error,
        )  # fmt: skip
        preparation = self._store.create(spec)
        self._forget()
        self._queue.add(preparation.id)
        return preparation

    def delete(self, id: str) -> None:
        """Ends a preparation, and removes it and the files that it made, unless something unfinished needs them.

        Raises:
            ApiError: If there is none.
        """
        for file in self._queue.remove(id).made:
            is_source = any(file in other.spec.files for other in self._store.all() if other.status in UNDER_WAY)
            if self._files.has(file) and not is_source and not self._needs(file):
                self._files.delete(file)

    def check_unused(self, file: str) -> None:
        """Raises an `ApiError` if a preparation that is under way needs a file."""
        for record in self._store.all():
            if record.status in UNDER_WAY and file in (*record.spec.files, *record.made):
                fix = "wait for its end, or delete it"
                raise ApiError(409, f"{file} is needed by {record.id}: {fix}", code="file_in_use")

    def forget_of(self, file: str) -> None:
        """Removes the preparations of a deleted file; what they made of it goes too, unless that was deleted."""
        for record in self._store.all():
            if file in record.spec.files:
                self.delete(record.id)
            elif file in record.made:
                self._queue.remove(record.id)

    def _check_room(self, size: int) -> None:
        """Raises an `ApiError` if all preparations that may be kept are under way, or the disk is full."""
        count = sum(record.status in UNDER_WAY for record in self._store.all())
        if count >= self._limits.preparations:
            message = f"there are {count} preparations under way, which is the limit: wait for one's end, or delete one"
            raise ApiError(
                429, message, type="rate_limit_error", code="too_many_preparations", headers={"Retry-After": "60"}
            )
        if shutil.disk_usage(self._folder).free < _SIZES * size:
            message = "the server's disk has too little room to prepare these files: delete some, or send smaller ones"
            raise ApiError(507, message, type="server_error", code="storage_full")

    def _forget(self) -> None:
        """Removes the oldest preparations that have ended, if there are too many; the files that they made stay."""
        ended = [record.id for record in self._store.all() if record.status not in UNDER_WAY]
        for id in ended[: max(0, len(self._store.all()) - self._limits.preparations)]:
            self._queue.remove(id)
