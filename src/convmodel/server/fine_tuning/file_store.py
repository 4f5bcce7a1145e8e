"""The files that clients uploaded, and the results of jobs.

Owns: the folder `files`, where each file lies under its id beside its record, and how much may be stored. Names that
clients give are shown to them, and are no part of a path. Does not know what a file contains.
"""

import json
import logging
import os
import re
import secrets
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal, get_args

from convmodel.errors import ConfigError, SaveError
from convmodel.files.atomic import replace_text
from convmodel.server.errors import ApiError
from convmodel.server.settings import TrainingLimits

logger = logging.getLogger(__name__)

Purpose = Literal["fine-tune", "fine-tune-results", "user_data"]

# Of the name of a file's content, which readers go by; that of its record is .json. What has the purpose user_data is
# read under another name.
_CONTENT = ".jsonl"
_PART = ".part"
_LONGEST_NAME = 255
_HALF = re.compile(r"[0-9a-f]{16}\.part|file-[0-9a-f]{24}\.jsonl")  # what a killed server may leave; other files stay


@dataclass(frozen=True, slots=True)
class FileRecord:
    """What is known of a file.

    Attributes:
        id: Its id, and the beginning of the names on the disk.
        bytes: Its size.
        created_at: When it was stored, in seconds since 1970; of files stored in one second, the order counts.
        filename: The name that the client gave, without folders.
        purpose: What it is for.
    """

    id: str
    bytes: int
    created_at: float
    filename: str
    purpose: Purpose

    def describe(self) -> dict[str, Any]:
        """Returns it in the form of OpenAI's API."""
        own = asdict(self) | {"created_at": int(self.created_at)}
        return {"object": "file", **own, "status": "processed", "status_details": None, "expires_at": None}


class Incoming:
    """A file that is being written; it counts against the limits as it grows."""

    def __init__(self, store: "FileStore", path: Path) -> None:
        self._store = store
        self.path = path
        self.size = 0
        self._file: BinaryIO = path.open("wb")

    def write(self, data: bytes) -> None:
        """Appends to the file.

        Raises:
            ApiError: If the file, or all files together, become larger than they may.
            SaveError: If it cannot be written.
        """
        self._store.reserve(self, len(data))
        with _writing():
            self.append(data)

    def append(self, data: bytes) -> None:
        """Appends to the file, whatever the limits are."""
        self._file.write(data)

    def finish(self) -> None:
        """Waits until the file is on the disk, and closes it."""
        if not self._file.closed:
            with _writing():
                self._file.flush()
                os.fsync(self._file.fileno())
                self._file.close()

    def discard(self) -> None:
        """Closes the file and removes it, unless it was stored."""
        with suppress(OSError):
            self._file.close()
        with suppress(OSError):
            self.path.unlink(missing_ok=True)


class FileStore:
    """The files of one server, in one folder.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as place:
        ...     store = FileStore(Path(place), TrainingLimits())
        ...     record = store.add("../talks.jsonl", "fine-tune", b'["Hello", "Hi"]')
        ...     record.filename, record.bytes, store.path(record.id).read_bytes()
        ('talks.jsonl', 15, b'["Hello", "Hi"]')
    """

    def __init__(self, folder: Path, limits: TrainingLimits) -> None:
        """Reads what an earlier server left, and removes what it had not finished.

        Raises:
            ConfigError: If a record is damaged, or its file is missing.
            SaveError: If the folder cannot be written.
        """
        self._folder = folder
        self._limits = limits
        self._lock = threading.Lock()
        self._incoming: set[Incoming] = set()
        with _writing():
            folder.mkdir(parents=True, exist_ok=True)
        records = [_read(path) for path in folder.glob("file-*.json")]
        self._records = {record.id: record for record in sorted(records, key=lambda one: (one.created_at, one.id))}
        with _writing():
            for path in folder.iterdir():
                if _HALF.fullmatch(path.name) and path.stem not in self._records:
                    path.unlink()

    def all(self) -> Sequence[FileRecord]:
        """Returns all files, the oldest first."""
        with self._lock:
            return [*self._records.values()]

    def get(self, id: str, *, param: str | None = None) -> FileRecord:
        """Returns a file's record; raises an `ApiError` if there is none, about a parameter if one named it."""
        with self._lock:
            if (record := self._records.get(id)) is None:
                raise unknown_file(id, param)
            return record

    def has(self, id: str) -> bool:
        """Returns whether there is a file of an id."""
        with self._lock:
            return id in self._records

    def path(self, id: str) -> Path:
        """Returns where the content of a file lies."""
        return self._folder / f"{id}{_CONTENT}"

    @contextmanager
    def incoming(self) -> Iterator[Incoming]:
        """Yields a file to write, which disappears after the block unless it is stored.

        Raises:
            ApiError: If there are as many files as may be, or too many are uploaded at once.
            SaveError: If it cannot be written.
        """
        with self._lock:
            self._check_count()
            if len(self._incoming) >= self._limits.uploads:
                message = f"{self._limits.uploads} files are uploaded already: try again later"
                raise ApiError(
                    429, message, type="rate_limit_error", code="too_many_uploads", headers={"Retry-After": "5"}
                )
            with _writing():
                file = Incoming(self, self._folder / f"{secrets.token_hex(8)}{_PART}")
            self._incoming.add(file)
        try:
            yield file
        finally:
            file.discard()
            with self._lock:  # its room is free now, and not before
                self._incoming.discard(file)

    def reserve(self, file: Incoming, size: int) -> None:
        """Counts what is about to be written to a file."""
        with self._lock:
            if file.size + size > self._limits.file_bytes:
                limit = _shown(self._limits.file_bytes)
                raise ApiError(413, f"the file is larger than {limit}: split it", param="file", code="file_too_large")
            self._check_total(size)
            file.size += size

    def _check_count(self) -> None:
        if len(self._records) + len(self._incoming) >= self._limits.files:
            raise _full(f"there are {self._limits.files:,} files, which is the limit")

    def _check_total(self, size: int) -> None:
        stored = sum(record.bytes for record in self._records.values())
        if stored + sum(one.size for one in self._incoming) + size > self._limits.total_bytes:
            raise _full(f"all files together would be larger than {_shown(self._limits.total_bytes)}")

    def store(self, file: Incoming, name: str, purpose: Purpose, *, id: str = "") -> FileRecord:
        """Stores a file that was written, under a new id or in place of the one that has the given id.

        Raises:
            SaveError: If it cannot be written.
        """
        file.finish()
        id = id or f"file-{secrets.token_hex(12)}"
        record = FileRecord(id, file.size, time.time(), _shown_name(name), purpose)
        with self._lock:
            with _writing():
                file.path.replace(self.path(record.id))
            try:
                replace_text(self._folder / f"{record.id}.json", json.dumps(asdict(record)) + "\n")
            except SaveError:
                self.path(record.id).unlink(missing_ok=True)
                raise
            self._incoming.discard(file)
            self._records[record.id] = record
        return record

    def add(self, name: str, purpose: Purpose, content: bytes, *, id: str = "") -> FileRecord:
        """Stores a file of the server's own, whatever the limits are; in place of the one that has the given id.

        Raises:
            SaveError: If it cannot be written.
        """
        with _writing():
            file = Incoming(self, self._folder / f"{secrets.token_hex(8)}{_PART}")
        try:
            file.size = len(content)
            with _writing():
                file.append(content)
            return self.store(file, name, purpose, id=id)
        finally:
            file.discard()

    def take(self, path: Path, name: str, purpose: Purpose, *, id: str) -> FileRecord:
        """Moves a file that the server has made for a client into the store, within the limits of uploaded files.

        Args:
            path: The file.
            name: The name that clients see.
            purpose: What it is for.
            id: Its id; if the store has a file of this id, it is returned, and nothing moves.

        Raises:
            ApiError: If there are as many files as may be, or all together would become too large.
            SaveError: If it cannot be moved.
        """
        with self._lock:
            if (stored := self._records.get(id)) is not None:
                return stored
            self._check_count()
            self._check_total(size := path.stat().st_size)
        file = Incoming(self, path.with_suffix(_PART))
        try:
            file.size = size
            file.finish()
            with _writing():
                path.replace(file.path)
            return self.store(file, name, purpose, id=id)
        finally:
            file.discard()

    def delete(self, id: str) -> None:
        """Deletes a file; raises an `ApiError` if there is none."""
        with self._lock:
            if self._records.pop(id, None) is None:
                raise unknown_file(id)
            with _writing():
                # The record first: a content without a record is removed by the next server.
                (self._folder / f"{id}.json").unlink(missing_ok=True)
                self.path(id).unlink(missing_ok=True)


@contextmanager
def _writing() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SaveError(f"the folder of files cannot be written: {error.strerror or error}; make room") from error


def unknown_file(id: str, param: str | None = None) -> ApiError:
    """Returns the error about a file that does not exist, which a parameter named if one is given."""
    status = 404 if param is None else 400
    return ApiError(status, f"there is no file {id}: upload it first", param=param, code="file_not_found")


def _full(problem: str) -> ApiError:
    return ApiError(507, f"{problem}: delete some", type="server_error", code="storage_full")


def _shown(size: int) -> str:
    """Returns a number of bytes as people write it.

    Example:
        >>> _shown(512 * 2**20), _shown(1000)
        ('512 MiB', '1,000 bytes')
    """
    return f"{size // 2**20:,} MiB" if size >= 2**20 and size % 2**20 == 0 else f"{size:,} bytes"


def _shown_name(name: str) -> str:
    r"""Returns the name of a file without folders and control characters.

    Example:
        >>> _shown_name("../../etc/passwd"), _shown_name("C:\\data\\talks.jsonl"), _shown_name("..")
        ('passwd', 'talks.jsonl', 'file')
    """
    base = name.replace("\\", "/").rpartition("/")[2]
    shown = "".join(character for character in base if character.isprintable()).strip()[:_LONGEST_NAME]
    return shown if shown.strip(".") else "file"


def _read(path: Path) -> FileRecord:
    try:
        record = FileRecord(**json.loads(path.read_bytes()))
        numbers, texts = (record.bytes, record.created_at), (record.id, record.filename)
        is_valid = all(type(number) in (int, float) for number in numbers) and all(type(text) is str for text in texts)
        if not is_valid or record.id != path.stem or record.purpose not in get_args(Purpose):
            raise ValueError(record)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, TypeError, RecursionError) as error:
        raise ConfigError(f"{path} is damaged: restore it, or remove it to drop the file") from error
    if not path.with_suffix(_CONTENT).is_file():
        raise ConfigError(f"{path.with_suffix(_CONTENT)} is missing: restore it, or remove {path}")
    return record
