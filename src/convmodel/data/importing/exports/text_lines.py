"""Exports that are text: the start of a file, and its dated entries.

Owns: reading the start of a file without ever failing, and what all text exports share. Knows no format.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby, zip_longest
from pathlib import Path
from typing import TypeAlias

from convmodel.data.importing.exports.dates import WrittenDate, date_order
from convmodel.data.importing.exports.messages import Chat, Message
from convmodel.data.reading.decoding import STDIN, open_bytes
from convmodel.data.reading.problems import Problems
from convmodel.errors import ConversationError

START = 64 * 1024
"""Bytes from the start of a file by which formats are recognised."""

EntryReader: TypeAlias = Callable[[str], tuple[str, str, tuple[str, ...]] | str]
"""Splits an entry into speaker, text and the kinds of parts left out of it, or returns why it is left out."""


@dataclass(slots=True)
class DatedEntry:
    """A dated entry.

    Attributes:
        line: The number of its first line.
        lines: Its lines without the date.
        form: What its beginning has in common with those of the same export.
    """

    date: WrittenDate
    line: int
    lines: list[str]
    form: object = None


@dataclass(slots=True)
class DatedChat:
    """A chat of a file, and its entries before the order of day, month and year is known."""

    chat: Chat
    entries: list[DatedEntry] = field(default_factory=list)


TimedEntry: TypeAlias = tuple[DatedEntry, datetime]


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


def collect_entries(
    lines: Sequence[str],
    indices: Iterable[int],
    begin: Callable[[int], DatedEntry | str | None],
    file: str,
    forms: str,
    problems: Problems,
) -> list[DatedEntry]:
    """Collects the entries that lines begin, each with the lines that continue it.

    `begin` returns the entry that the line of an index begins, or what is wrong with it; such a line, or one for which
    it returns an empty string, is left out with the lines that continue it, and never continues an entry.
    """
    entries: list[DatedEntry] = []
    left_out = False
    for index in indices:
        start = begin(index)
        if isinstance(start, DatedEntry):
            entries.append(start)
            left_out = False
        elif start is not None:
            left_out = True
            if start:
                problems.add(f"{file}:{index + 1}: {start}")
        elif not left_out and entries:
            entries[-1].lines.append(lines[index])
        elif not left_out and lines[index].strip():
            problems.add(f"{file}:{index + 1}: text before the first message: remove the line, or write {forms}")
    return entries


def read_dated(chats: Sequence[DatedChat], file: str, problems: Problems, read_entry: EntryReader) -> Iterator[Chat]:
    """Adds the entries of a file's chats to them, after finding the order of day, month and year of each form.

    If no order fits all entries of a form there is no chat, and a problem; an impossible date is a problem, too. An
    entry of another form than the one before it is read if its time is not earlier; otherwise it is pasted text, left
    out and counted, or a problem if no entry of the first form follows.
    """
    by_form: dict[object, list[WrittenDate]] = defaultdict(list)
    for entry in (entry for chat in chats for entry in chat.entries):
        by_form[entry.form].append(entry.date)
    orders, notes = {}, []
    for form, dates in by_form.items():
        try:
            orders[form], note = date_order(dates, file)
        except ConversationError as error:
            problems.add(str(error), rows=sum(map(len, by_form.values())))
            return
        notes.append(note)
    for dated in chats:
        dated.chat.notes += notes
        timed = list(_timed(dated.entries, orders, file, problems))
        for entry, time in _without_pasted(timed, dated.chat, file, problems):
            result = read_entry("\n".join(entry.lines))
            if isinstance(result, str):
                dated.chat.dropped[result] += 1
            else:
                speaker, text, without = result
                dated.chat.messages.append(Message(speaker, text, time, f"{file}:{entry.line}", without))
        yield dated.chat


def _timed(
    entries: Sequence[DatedEntry], orders: Mapping[object, str], file: str, problems: Problems
) -> Iterator[TimedEntry]:
    for entry in entries:
        try:
            yield entry, entry.date.at(orders[entry.form])
        except ValueError as error:
            clock = ":".join(f"{number:02}" for number in entry.date.clock.time)
            problems.add(
                f"{file}:{entry.line}: there is no {entry.date.text} {clock} ({error}): correct it, or remove the "
                "message"
            )


def _without_pasted(timed: Sequence[TimedEntry], chat: Chat, file: str, problems: Problems) -> Iterator[TimedEntry]:
    """Yields the entries that are messages of this chat, not of another one that somebody pasted into a message."""
    runs = [list(run) for _, run in groupby(timed, key=lambda timed_entry: timed_entry[0].form)]
    last: TimedEntry | None = None
    pasted: list[TimedEntry] = []
    for run, following in zip_longest(runs, runs[1:]):
        first, until = run[0], following[0] if following else None
        if last is None or last[0].form == first[0].form or _in_order(last, first, run[-1], until):
            yield from run
            last = run[-1]
        elif until and until[0].form == last[0].form:
            pasted += run
        else:
            problems.add(
                f"{file}:{first[0].line}: this message has another form than those before it, and is older: put "
                "another export into a file of its own, or indent pasted text",
                rows=len(run),
            )
    add_pasted(chat, [entry.line for entry, _ in pasted])


def _in_order(*timed: TimedEntry | None) -> bool:
    minutes = [entry[1].replace(second=0) for entry in timed if entry]  # some forms have no seconds
    return minutes == sorted(minutes)


def add_pasted(chat: Chat, lines: Sequence[int]) -> None:
    """Counts messages of another chat inside a message, which begin on these lines, as left out."""
    if lines:
        chat.dropped["pasted message"] += len(lines)
        chat.notes.append(
            f"messages of another form than those around them were left out as pasted text: line {lines[0]}"
        )
