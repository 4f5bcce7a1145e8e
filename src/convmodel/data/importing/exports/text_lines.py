"""Exports that are text: the start of a file, and its dated entries.

Owns: reading the start of a file without ever failing, and what all text exports share. Knows no format.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

from convmodel.data.importing.exports.dates import WrittenDate, date_order
from convmodel.data.importing.exports.messages import Chat, Message
from convmodel.data.reading.decoding import STDIN, open_bytes
from convmodel.data.reading.problems import Problems
from convmodel.errors import ConversationError

START = 64 * 1024
"""Bytes from the start of a file by which formats are recognised."""

EntryReader: TypeAlias = Callable[[str], tuple[str, str] | str]
"""Splits an entry into speaker and text, or returns why it is left out."""


@dataclass(slots=True)
class DatedEntry:
    """A dated entry: the number of its first line, and its lines without the date."""

    date: WrittenDate
    line: int
    lines: list[str]


@dataclass(slots=True)
class DatedChat:
    """A chat of a file, and its entries before the order of day, month and year is known."""

    chat: Chat
    entries: list[DatedEntry] = field(default_factory=list)


def first_bytes(path: Path) -> bytes:
    """Reads the bytes by which formats are recognised.

    Raises:
        ConversationError: If the file cannot be read or decompressed.
        MissingExtraError: If it is zstd, and backports.zstd is not installed.
    """
    with open_bytes(path) as file:
        return file.read(START)


def start_of(path: Path) -> str:
    """Reads the start of a file, without an incomplete last character; empty if it is unreadable or not text."""
    try:
        if str(path) == STDIN or not path.is_file():  # what is read of a pipe would be missing later
            return ""
        data = first_bytes(path)
    except Exception:  # detection must never fail: zip files raise many kinds of errors if they are damaged
        return ""
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        return data.decode("utf-16", errors="ignore")
    return "" if b"\0" in data else data.decode("utf-8-sig", errors="ignore")


def first_lines(path: Path) -> list[str]:
    """Reads the non-blank lines at the start of a file; none if it is unreadable or not text."""
    text = start_of(path).replace("\r\n", "\n").replace("\r", "\n")
    return [line for line in text.split("\n") if line.strip()]


def add_unrecognised(problems: Problems, file: str, lines: Sequence[str], reason: str) -> None:
    """Adds the problem that no line of a file has the form of its format; the message quotes the first line."""
    first = next((line for line in lines if line.strip()), "")
    problems.add(f"{file}:1: {reason}; it begins with {first[:80]!r}")


def read_dated(chats: Sequence[DatedChat], file: str, problems: Problems, read_entry: EntryReader) -> Iterator[Chat]:
    """Adds the entries of a file's chats to them, after finding the order of day, month and year in all of them.

    If no order fits all entries there is no chat, and a problem; an impossible date is a problem, too.
    """
    entries = [entry for chat in chats for entry in chat.entries]
    try:
        order, note = date_order([entry.date for entry in entries], file)
    except ConversationError as error:
        problems.add(str(error), rows=len(entries))
        return
    for dated in chats:
        dated.chat.notes.append(note)
        for entry in dated.entries:
            _add(dated.chat, entry, order, f"{file}:{entry.line}", problems, read_entry)
        yield dated.chat


def _add(chat: Chat, entry: DatedEntry, order: str, place: str, problems: Problems, read_entry: EntryReader) -> None:
    try:
        time = entry.date.at(order)
    except ValueError as error:
        clock = ":".join(f"{number:02}" for number in entry.date.clock)
        problems.add(f"{place}: there is no {entry.date.text} {clock} ({error}): correct it, or remove the message")
        return
    result = read_entry("\n".join(entry.lines))
    if isinstance(result, str):
        chat.dropped[result] += 1
    else:
        chat.messages.append(Message(*result, time, place))
