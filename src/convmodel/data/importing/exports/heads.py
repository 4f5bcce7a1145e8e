"""The first part of a file, by which a reader tells whether the file is its own.

Owns: reading a little of a file without ever failing. Knows no format.
"""

from pathlib import Path

from convmodel.data.reading.decoding import STDIN, open_bytes
from convmodel.errors import ConvModelError

HEAD = 64 * 1024
"""How many bytes are looked at."""


def first_lines(path: Path) -> list[str]:
    """Reads the lines at the start of a file that are not blank; none of a file that is unreadable, or is no text.

    Example:
        >>> first_lines(Path("no such file.txt"))
        []
    """
    if str(path) == STDIN:  # what is read here would be missing later
        return []
    try:
        with open_bytes(path) as file:
            data = file.read(HEAD)
    except (ConvModelError, ValueError, OSError):
        return []
    return text_lines(data)


def text_lines(data: bytes) -> list[str]:
    r"""Decodes the start of a text into its lines that are not blank; a character that is cut off is left out.

    Example:
        >>> text_lines("Ann: Hi\r\n\r\nBob: ciao è".encode()[:-1])
        ['Ann: Hi', 'Bob: ciao ']
    """
    wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    if not wide and b"\0" in data:
        return []
    text = data.decode("utf-16" if wide else "utf-8-sig", errors="ignore")
    return [line for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n") if line.strip()]
