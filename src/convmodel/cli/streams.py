"""The encoding of the standard streams, which on Windows and in the C locale cannot write every character.

Owns: which encoding a stream gets, that no character of the output ends a command, and reading a line. Does not know
what is read or written.
"""

import os
import sys
from typing import Any

from convmodel.errors import ConfigError


def use_utf8() -> None:
    """Makes standard streams that are pipes or files UTF-8 with line feeds, and output replace what it cannot encode.

    A terminal keeps its encoding, and so does every stream if `PYTHONIOENCODING` is set: a character that is not in it
    is written as `?`. Bytes of the input that are not in its encoding are errors (`read_line`).
    """
    is_set = bool(os.environ.get("PYTHONIOENCODING"))
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        reconfigure: Any = getattr(stream, "reconfigure", None)  # a test's or a notebook's stream may have none
        if reconfigure is None:
            continue
        options: dict[str, Any] = {"encoding": stream.encoding if is_set or stream.isatty() else "utf-8"}
        if stream is not sys.stdin:
            options |= {"errors": "replace"} | ({} if stream.isatty() else {"newline": "\n"})
        elif is_set and stream.errors != "surrogateescape":  # which would hide what is not text until it is encoded
            options["errors"] = stream.errors
        reconfigure(**options)


def read_line() -> str:
    """Returns the next line of standard input with its end, or nothing at the end of the input.

    Raises:
        ConfigError: If the input is not in its encoding.
    """
    try:
        return sys.stdin.readline()
    except UnicodeDecodeError as error:
        byte = error.object[error.start]
        raise ConfigError(
            f"standard input is not valid {error.encoding}: it has the byte 0x{byte:02x}; convert it to UTF-8, or set "
            "PYTHONIOENCODING to its encoding, such as cp850 for pipes of a Windows console"
        ) from error


def writes_any_text() -> bool:
    """Returns whether standard output has every character, as in UTF-8."""
    return str(getattr(sys.stdout, "encoding", None) or "utf-8").lower().startswith(("utf", "cp65001"))
