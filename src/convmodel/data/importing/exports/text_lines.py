"""Exports that are text: the first lines of a file, and its dated entries.

Owns: reading the start of a file without ever failing, and the errors that all text exports share. Knows no format.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from convmodel.data.importing.exports.dates import WrittenDate, date_order
from convmodel.data.reading.decoding import STDIN, open_bytes
from convmodel.data.reading.problems import Problems
from convmodel.errors import ConversationError, ConvModelError

START = 64 * 1024
"""Bytes from the start of a file by which formats are recognised."""


@dataclass(slots=True)
class DatedEntry:
    """The first line of an entry, and the lines that continue it.

    Attributes:
        date: Its date and time.
        line: The number of its first line.
        lines: Its text.
    """

    date: WrittenDate
    line: int
    lines: list[str]


def first_lines(path: Path) -> list[str]:
    """Reads the non-blank lines at the start of a file; none if it is unreadable or not text.

    Example:
        >>> first_lines(Path("no such file.txt"))
        []
    """
    if str(path) == STDIN:  # what is read here would be missing later
        return []
    try:
        with open_bytes(path) as file:
            data = file.read(START)
    except (ConvModelError, ValueError, OSError):
        return []
    return text_lines(data)


def text_lines(data: bytes) -> list[str]:
    r"""Decodes the start of a text into its non-blank lines; an incomplete last character is left out.

    Example:
        >>> text_lines("Ann: Hi\r\n\r\nBob: ciao è".encode()[:-1])
        ['Ann: Hi', 'Bob: ciao ']
    """
    wide = data.startswith((b"\xff\xfe", b"\xfe\xff"))
    if not wide and b"\0" in data:
        return []
    text = data.decode("utf-16" if wide else "utf-8-sig", errors="ignore")
    return [line for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n") if line.strip()]


def add_unrecognised(problems: Problems, file: str, lines: Sequence[str], reason: str) -> None:
    """Adds the problem that no line of a file has the form of its format; the message quotes the first line.

    Raises:
        ConversationError: If problems are errors.
    """
    first = next((line for line in lines if line.strip()), "")
    problems.add(f"{file}:1: {reason}; it begins with {first[:80]!r}")


def order_of_dates(entries: Sequence[DatedEntry], file: str, problems: Problems) -> tuple[str, str] | None:
    """Finds the order of day, month and year by `date_order`; None, and a problem, if no order fits all entries.

    Raises:
        ConversationError: If no order fits, and problems are errors.
    """
    try:
        return date_order([entry.date for entry in entries], file)
    except ConversationError as error:
        problems.add(str(error), rows=len(entries))
        return None
