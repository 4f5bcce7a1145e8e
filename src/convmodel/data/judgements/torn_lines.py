"""Half lines: the beginning of a JSON object, which a write that was interrupted or is not finished left in a file.

Owns: how a half line differs from one that is malformed, and which rows of a file are half lines.
"""

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path

from convmodel.data.reading.decoding import lines_of, open_bytes
from convmodel.data.reading.rows import Row

_CUT_VALUES = ("true", "false", "null", "-", ".", "e+", "e-", "E+", "E-")  # what the parser stops at


def is_torn(line: bytes) -> bool:
    """Returns whether a line is the beginning of a JSON object, without its end.

    Example:
        >>> is_torn(b'{"context": ["Hi"], "cho'), is_torn(b'{"context": ["Hi"] "chosen": 1}')
        (True, False)
    """
    line = line.strip()
    if not line.startswith(b'{"'):
        return False
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        if error.reason != "unexpected end of data":
            return False
        text = line[: error.start].decode()
    try:
        json.loads(text)
    except json.JSONDecodeError as error:
        rest = text[error.pos :]
        is_cut_escape = "uXXXX" in error.msg and len(rest) < 6 and '"' not in rest
        is_cut_value = any(end.startswith(rest) for end in _CUT_VALUES)
        return is_cut_value or is_cut_escape or error.msg.startswith("Unterminated")
    except (ValueError, RecursionError):
        return False
    return len(text.encode()) < len(line)  # complete, unless its last character was cut


def without_torn(rows: Iterable[Row], torn: list[str]) -> Iterator[Row]:
    """Yields the rows that are not half lines, and appends the places of the others to a list."""
    with ExitStack() as files:
        lines: Iterator[tuple[int, bytes | None]] = iter(())
        opened = ""
        for row in rows:
            file, number = _line_of(row)
            if file is None:
                yield row
                continue
            if file != opened:
                files.close()
                lines, opened = enumerate(lines_of(files.enter_context(open_bytes(Path(file)))), 1), file
            line = next((line for at, line in lines if at == number), None)
            # A line that was cut when it was read may be complete now.
            if line is not None and (is_torn(line) or _is_complete(line)):
                torn.append(f"{file}:{number}")
            else:
                yield row


def _is_complete(line: bytes) -> bool:
    try:
        return isinstance(json.loads(line), dict)
    except (ValueError, RecursionError):
        return False


def _line_of(row: Row) -> tuple[str | None, int]:
    """Returns the file and the number of the line that is not JSON; no file for other rows."""
    parts = row.place.rsplit(":", 2)
    if row.error is None or len(parts) < 3 or not (parts[1].isdigit() and parts[2].isdigit()):
        return None, 0
    return (parts[0], int(parts[1])) if os.path.isfile(parts[0]) else (None, 0)  # noqa: PTH113
