"""Records in files that a restarted server reads: of jobs, and of preparations.

Owns: the folder of each record, and that a change is written before it counts. Does not know what a record means.
"""

import json
import logging
import shutil
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar, Generic, Protocol, TypeVar

from convmodel.errors import ConfigError, SaveError
from convmodel.files.atomic import replace_text
from convmodel.server.errors import ApiError

logger = logging.getLogger(__name__)


class Record(Protocol):
    """A dataclass with an id, and the time at which it was created, in seconds since 1970."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def id(self) -> str: ...  # noqa: D102

    @property
    def created_at(self) -> float: ...  # noqa: D102


R = TypeVar("R", bound=Record)


class RecordFolder(Generic[R]):
    """Records in one folder, each in a folder of its own."""

    def __init__(
        self, folder: Path, file: str, parse: Callable[[dict[str, Any]], R], *, what: str, unknown: str
    ) -> None:
        """Reads the records of an earlier server.

        Args:
            folder: Where they are.
            file: The name of the file with a record, in the record's folder.
            parse: Makes a record of what the file has; raises `ValueError`, `KeyError` or `TypeError` if it cannot.
            what: What messages call a record.
            unknown: The code of the error about one that does not exist.

        Raises:
            ConfigError: If a record is damaged.
            SaveError: If the folder cannot be written.
        """
        self._folder = folder
        self._file = file
        self._parse = parse
        self._what = what
        self._unknown = unknown
        self._lock = threading.Lock()
        self._changing = threading.RLock()  # of one change after the other; readers see a record before or after it
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise SaveError(f"{folder} cannot be written: {error.strerror or error}") from error
        records = [self._read(path) for path in folder.glob(f"*/{file}")]
        self._records = {record.id: record for record in sorted(records, key=lambda one: one.created_at)}

    def all(self) -> Sequence[R]:
        """Returns all records, the oldest first."""
        with self._lock:
            return [*self._records.values()]

    def find(self, id: str) -> R | None:
        """Returns a record; None if there is none."""
        with self._lock:
            return self._records.get(id)

    def get(self, id: str) -> R:
        """Returns a record; raises an `ApiError` if there is none."""
        if (record := self.find(id)) is None:
            raise ApiError(404, f"there is no {self._what} {id[:100]}", code=self._unknown)
        return record

    def add(self, record: R) -> R:
        """Records something new; raises `SaveError` if it cannot be written."""
        try:
            self.path(record.id).mkdir()
            self._write(record)
        except OSError as error:  # SaveError too
            shutil.rmtree(self.path(record.id), ignore_errors=True)
            if isinstance(error, SaveError):
                raise
            raise SaveError(f"the {self._what} cannot be recorded: {error.strerror or error}") from error
        with self._lock:
            self._records[record.id] = record
        return record

    def change(self, id: str, **fields: Any) -> R:
        """Changes a record; raises `SaveError`, and leaves it as it was, if that cannot be written."""
        with self._changing:
            record = replace(self.get(id), **fields)
            self._write(record)
            with self._lock:
                self._records[id] = record
        return record

    def force(self, id: str, **fields: Any) -> R:
        """Changes a record, in memory alone if that cannot be written: a restarted server finds out again."""
        with self._changing:
            try:
                return self.change(id, **fields)
            except SaveError:
                logger.exception("a change of %s is not recorded", id)
                record = replace(self.get(id), **fields)
                with self._lock:
                    self._records[id] = record
                return record

    def path(self, id: str) -> Path:
        """Returns the folder of a record."""
        return self._folder / id

    def log(self, id: str) -> Path:
        """Returns the file for what its processes report."""
        return self.path(id) / "log"

    def forget(self, id: str) -> None:
        """Removes a record and its folder."""
        with self._changing:
            with self._lock:
                self._records.pop(id, None)
            with suppress(OSError):  # the record first: if the server is killed now, it does not come back
                (self.path(id) / self._file).unlink(missing_ok=True)
        shutil.rmtree(self.path(id), ignore_errors=True)

    def _write(self, record: R) -> None:
        replace_text(self.path(record.id) / self._file, json.dumps(asdict(record), indent=1) + "\n")

    def _read(self, path: Path) -> R:
        try:
            record = self._parse(json.loads(path.read_bytes()))
            if record.id != path.parent.name:
                raise ValueError(record)
        except OSError as error:
            raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            fix = f"restore it, or remove {path.parent} to drop the {self._what}"
            raise ConfigError(f"{path} is damaged: {fix}") from error
        return record
