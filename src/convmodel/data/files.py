"""Bytes of files as text and JSON, each error with its place.

Owns: decompression, decoding, and the wording of errors about files. Knows nothing of conversations.
"""

import errno
import gzip
import io
import json
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from convmodel.errors import ConversationError, MissingExtraError

STDIN = "-"
"""The name that stands for standard input."""

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"


@contextmanager
def open_bytes(path: Path) -> Iterator[IO[bytes]]:
    """Opens a file, or standard input, for reading; gzip and zstd are recognised by their first bytes.

    Raises:
        ConversationError: If there is no such file, or it cannot be read or decompressed.
        MissingExtraError: If it is zstd, and pyarrow is not installed.
    """
    try:
        with _raw(path) as raw:
            head = raw.peek(4)[:4]
            if head.startswith(_GZIP):
                with gzip.GzipFile(fileobj=raw) as unpacked:
                    yield cast(IO[bytes], unpacked)
            elif head == _ZSTD:
                with _zstd(raw) as unpacked:
                    yield unpacked
            else:
                yield raw
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise ConversationError(
            f"{path}: the compressed file is cut off or damaged: copy it again ({error})"
        ) from error
    except OSError as error:
        if isinstance(error, FileNotFoundError | IsADirectoryError) or error.errno == errno.ENAMETOOLONG:
            raise ConversationError(f"there is no file {str(path)[:200]}") from error
        raise ConversationError(f"{path} cannot be read: {error.strerror or error}") from error


@contextmanager
def _raw(path: Path) -> Iterator[io.BufferedReader]:
    if str(path) != STDIN:
        with path.open("rb") as file:
            yield file
    else:  # stays open: it is not ours
        stream = sys.stdin.buffer
        yield stream if isinstance(stream, io.BufferedReader) else io.BufferedReader(stream)  # type: ignore[arg-type]


@contextmanager
def _zstd(raw: IO[bytes]) -> Iterator[IO[bytes]]:
    try:
        import pyarrow
    except ImportError as error:
        raise MissingExtraError("reading zstd needs pyarrow: pip install 'convmodel[train]'") from error
    with pyarrow.CompressedInputStream(pyarrow.PythonFile(raw), "zstd") as stream:
        yield io.BufferedReader(stream)


def read_text(path: Path) -> str:
    """Reads a whole file as text: UTF-8, or UTF-16 with its mark; line ends become a newline.

    Raises:
        ConversationError: If it cannot be read, or is neither; the message names line and column.
    """
    with open_bytes(path) as file:
        data = file.read()
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        try:
            text = data.decode("utf-16")
        except UnicodeDecodeError as error:
            raise ConversationError(f"{path}: not whole UTF-16: save the file as UTF-8") from error
    else:
        try:
            text = data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            before = data[: error.start]
            line, column = before.count(b"\n") + 1, len(before.rpartition(b"\n")[2].decode()) + 1
            raise ConversationError(f"{path}:{line}:{column}: not UTF-8: save the file as UTF-8") from error
    return text.replace("\r\n", "\n").replace("\r", "\n")


def read_json(path: Path) -> Any:
    """Reads a whole file as one JSON value.

    Raises:
        ConversationError: If it cannot be read, or is no JSON; the message names line and column.
    """
    try:
        return json.loads(read_text(path))
    except json.JSONDecodeError as error:
        raise ConversationError(f"{path}:{error.lineno}:{error.colno}: not JSON ({error.msg})") from error
    except RecursionError as error:
        raise ConversationError(f"{path}: nested too deeply to be conversations") from error
