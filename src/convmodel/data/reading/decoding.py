"""Bytes of files as text and JSON, each error with its place.

Owns: decompression, decoding, and the wording of errors about files. Knows nothing of conversations.
"""

import codecs
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
                with _zstd(io.BytesIO(raw.read()) if str(path) == STDIN else raw) as unpacked:
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
    if str(path) == STDIN:
        stream = io.BufferedReader(cast(Any, sys.stdin.buffer))
        try:
            yield stream
        finally:  # stays open: it is not ours
            stream.detach()
        return
    try:
        file = path.open("rb")
    except ValueError as error:  # a null byte, or half a surrogate pair
        raise ConversationError(f"there is no file {str(path)[:200]!r}") from error
    with file:
        yield file


@contextmanager
def _zstd(raw: IO[bytes]) -> Iterator[IO[bytes]]:
    try:
        import pyarrow
    except ImportError as error:
        raise MissingExtraError("reading zstd needs pyarrow: pip install 'convmodel[train]'") from error
    if not _is_whole_zstd(raw):  # pyarrow would take the beginning for the whole
        raise EOFError("the end is missing")
    with pyarrow.CompressedInputStream(pyarrow.PythonFile(raw, mode="r"), "zstd") as stream:
        yield io.BufferedReader(stream)


def _is_whole_zstd(file: IO[bytes]) -> bool:
    """Walks from block to block, to see whether the last one ends where the file does; the format is RFC 8878's."""
    end = file.seek(0, io.SEEK_END)
    position = file.seek(0)
    while position < end:
        magic, head = file.read(4), file.read(4)
        if magic[1:] == b"\x2a\x4d\x18":  # a frame to be skipped
            position = file.seek(position + 8 + int.from_bytes(head, "little"))
            continue
        flags = head[0] if head else 0
        single = flags >> 5 & 1
        sizes = (0 if single else 1, (0, 1, 2, 4)[flags & 3], (single, 2, 4, 8)[flags >> 6])
        file.seek(position + 5 + sum(sizes))
        last = 0
        while not last:
            block = file.read(3)
            if magic != _ZSTD or len(block) < 3:
                return False
            number = int.from_bytes(block, "little")
            last, repeated = number & 1, (number >> 1 & 3) == 1
            position = file.seek(1 if repeated else number >> 3, io.SEEK_CUR)
        position = file.seek(4 * (flags >> 2 & 1), io.SEEK_CUR)
    file.seek(0)
    return position == end


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
            text = (data := data.removeprefix(codecs.BOM_UTF8)).decode()
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
    except ConversationError:
        raise
    except (ValueError, RecursionError) as error:
        raise ConversationError(f"{path}: {json_reason(error)}") from error


def json_reason(error: ValueError | RecursionError) -> str:
    """Says why text that may be JSON cannot be read, and what to do, where the parser's own words do not.

    Example:
        >>> json_reason(RecursionError())
        'nested too deeply to be a conversation'
    """
    if isinstance(error, RecursionError):
        return "nested too deeply to be a conversation"
    if "int_max_str_digits" in str(error):
        return "a number has thousands of digits: write it as a string"
    return str(error)
