"""JSON lines: files that grow by one JSON object per line.

Owns: the form of a line, and appending one whole or not at all. Knows nothing of what the objects mean.
"""

import json
import os
from contextlib import suppress
from io import FileIO
from pathlib import Path
from typing import Any, BinaryIO

from convmodel.errors import SaveError
from convmodel.files.atomic import lock


def to_line(record: Any, **options: Any) -> bytes:
    """Encodes a record as one line of UTF-8, with its newline; the options are those of `json.dumps`."""
    return (json.dumps(record, **{"ensure_ascii": False} | options) + "\n").encode()


def write_line(file: BinaryIO, record: Any, *, sync: bool = False) -> None:
    """Writes a record to an open file; with `sync`, waits until everything in the file is on the disk."""
    file.write(to_line(record))
    if sync:
        file.flush()
        os.fsync(file.fileno())


def require_appendable(path: str | os.PathLike[str], *, fix: str = "choose another file") -> None:
    """Raises a `SaveError`, before work begins, if a file cannot be appended to; creates it if it is missing."""
    _append(path, b"", fix)


def append_line(
    path: str | os.PathLike[str], record: Any, *, fix: str = "choose another file", sync: bool = False, **options: Any
) -> None:
    """Appends a record to a file, which is created if it is missing and closed again.

    Of a line that does not fit on the disk no part stays. A last line without a newline, which a killed process or an
    editor left, stays as it is: the record is written on a new line, and readers report or skip the torn one. Several
    processes may append to the same file.

    Args:
        path: The file.
        record: What `json.dumps` encodes.
        fix: The end of the message of an error.
        sync: Whether to wait until the line is on the disk.
        **options: Options of `json.dumps`.

    Raises:
        SaveError: If the file cannot be written; the cause is the `OSError`.
    """
    _append(path, to_line(record, **options), fix, sync=sync)


def _append(path: str | os.PathLike[str], line: bytes, fix: str, *, sync: bool = False) -> None:
    try:
        with Path(path).open("ab", buffering=0) as file:
            if not line:
                return
            lock(file.fileno(), wait=True)  # so that no half line of another process is taken for a torn one
            write_whole(file, b"\n" + line if _is_torn(Path(path)) else line, sync=sync and Path(path).is_file())
    except OSError as error:
        raise SaveError(f"{path} cannot be written: {error.strerror or error}; {fix}") from error


def write_whole(file: FileIO, line: bytes, *, sync: bool) -> None:
    """Writes a line to an unbuffered file; if that fails, no part of it stays, and the `OSError` is raised."""
    written = 0
    try:
        while written < len(line):
            written += file.write(line[written:])
        if sync:
            os.fsync(file.fileno())
    except OSError:
        if written:
            with suppress(OSError):  # the first error is the one to report
                file.truncate(file.tell() - written)
        raise


def _is_torn(path: Path) -> bool:
    """Returns whether the last line of a regular file has no newline; False if it cannot be read."""
    with suppress(OSError):
        if path.is_file() and path.stat().st_size:
            with path.open("rb") as file:
                file.seek(-1, os.SEEK_END)
                return file.read(1) != b"\n"
    return False
