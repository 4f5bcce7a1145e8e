"""Bytes of files as text and JSON, each error with its place.

Owns: decompression, decoding, and the wording of errors about files. Knows nothing of conversations.
"""

import codecs
import errno
import gzip
import io
import json
import sys
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from convmodel.errors import ConversationError, MissingExtraError

STDIN = "-"
"""The path that means standard input."""

LONGEST_LINE = 64 << 20
"""The limit of a line in bytes."""

TOO_LONG_LINE = f"the line is longer than {LONGEST_LINE >> 20} MiB: write one conversation a line"
"""The reason to refuse a line."""

LARGEST_TEXT = 1 << 30
"""The limit of a file that is read as a whole, in bytes without compression."""

_UNPACKS_TO = 200  # times the size of a compressed file; chats are compressed to a twentieth
_SMALL_TEXT = LONGEST_LINE  # which any file may unpack to
_PIECE = 16 << 20

_GZIP, _ZSTD = b"\x1f\x8b", b"\x28\xb5\x2f\xfd"
_DAMAGED = (EOFError, gzip.BadGzipFile, zlib.error)


@contextmanager
def open_bytes(path: Path) -> Iterator[IO[bytes]]:
    """Opens a file, or standard input, for reading; gzip and zstd are recognised by their first bytes.

    Raises:
        ConversationError: If there is no such file, or it cannot be read or decompressed.
        MissingExtraError: If it is zstd, and backports.zstd is not installed.
    """
    try:
        with _raw(path) as raw:
            magic = raw.peek(4)[:4]
            if magic.startswith(_GZIP):
                with gzip.GzipFile(fileobj=raw) as decompressed:
                    yield cast(IO[bytes], decompressed)
            elif magic == _ZSTD:
                with _zstd(raw) as decompressed:
                    yield decompressed
            else:
                yield raw
    except _DAMAGED as error:
        raise ConversationError(
            f"{path}: the compressed file is truncated or damaged: copy it again ({error})"
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
        finally:  # leave standard input open
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
        if sys.version_info >= (3, 14):
            from compression import zstd
        else:
            from backports import zstd
    except ImportError as error:
        raise MissingExtraError("reading zstd needs backports.zstd", "train") from error
    largest_window = zstd.DecompressionParameter.window_log_max
    # By default, files of `zstd --long=31` are refused.
    options: dict[int, int] = {largest_window: largest_window.bounds()[1]}
    try:
        # Buffered: the decompressor's own `readline` takes four times as long.
        with io.BufferedReader(cast(Any, zstd.ZstdFile(raw, options=options))) as decompressed:
            yield decompressed
    except zstd.ZstdError as error:
        raise EOFError(str(error)) from error


def lines_of(file: IO[bytes]) -> Iterator[bytes | None]:
    """Yields each line with its end; None for one longer than `LONGEST_LINE`, which is skipped."""
    while line := file.readline(LONGEST_LINE + 1):
        if len(line) <= LONGEST_LINE:
            yield line
            continue
        while line and not line.endswith(b"\n"):
            line = file.readline(_PIECE)
        yield None


def decoded_lines(path: Path, file: IO[bytes]) -> Iterator[str]:
    """Yields the lines of a table, with surrogates for what is not UTF-8.

    Raises:
        ConversationError: If a line is too long; it may be in the middle of a value, so that the next row is unknown.
    """
    for number, line in enumerate(lines_of(file), 1):
        if line is None:
            raise ConversationError(f"{path}:{number}: {TOO_LONG_LINE}")
        yield line.decode("utf-8-sig" if number == 1 else "utf-8", "surrogateescape")


def _size_limit(path: Path) -> int:
    """Returns how many bytes the text of a file may have: of a small compressed file fewer than of a large one."""
    try:
        inside: Any = path  # a path in a zip reads like any other
        is_member = isinstance(inside, zipfile.Path)
        size = inside.root.getinfo(inside.at).compress_size if is_member else path.stat().st_size
    except (OSError, KeyError):
        return LARGEST_TEXT
    return LARGEST_TEXT if str(path) == STDIN else min(LARGEST_TEXT, max(_SMALL_TEXT, _UNPACKS_TO * size))


def read_bytes(path: Path) -> bytes:
    """Reads and decompresses a whole file.

    Raises:
        ConversationError: If it cannot be read, or is larger than a file may be.
    """
    pieces, size, limit = [], 0, _size_limit(path)
    with open_bytes(path) as file:
        while piece := file.read(_PIECE):
            size += len(piece)
            if size > limit:
                raise ConversationError(
                    f"{path}: it has more than {limit >> 20:,} MiB of text, the limit for its size: split it, or "
                    "convert it to JSON lines"
                )
            pieces.append(piece)
    return b"".join(pieces)


def read_text(path: Path) -> str:
    """Reads a whole file as text: UTF-8, or UTF-16 with a byte order mark; line ends become newlines.

    Raises:
        ConversationError: If it cannot be read or decoded; the message names line and column.
    """
    data = read_bytes(path)
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
        ConversationError: If it cannot be read, or is not JSON; the message names line and column.
    """
    with locating_json_errors(path):
        return json.loads(read_text(path))


@contextmanager
def locating_json_errors(path: Path) -> Iterator[None]:
    """Turns the errors of parsing a file's JSON into `ConversationError`, with the place."""
    try:
        yield
    except json.JSONDecodeError as error:
        raise ConversationError(f"{path}:{error.lineno}:{error.colno}: not JSON ({error.msg})") from error
    except ConversationError:
        raise
    except (ValueError, RecursionError) as error:
        raise ConversationError(f"{path}: {json_reason(error)}") from error


def json_reason(error: ValueError | RecursionError) -> str:
    """Explains why JSON cannot be read, and what to do, where the parser's own message does not."""
    if isinstance(error, RecursionError):
        return "nested too deeply to be a conversation"
    if "int_max_str_digits" in str(error):
        return "a number has thousands of digits: write it as a string"
    return str(error)


def encodable(text: str) -> str:
    r"""Returns text that UTF-8 can encode: names of files, which messages and ids have, need not be Unicode.

    Example:
        >>> encodable("J\udcf6rg.txt")
        'J\\udcf6rg.txt'
    """
    return text.encode(errors="backslashreplace").decode()
