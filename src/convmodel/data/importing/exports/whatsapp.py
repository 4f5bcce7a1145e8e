"""WhatsApp's exported chats: `31/12/2021, 21:41 - Ann: text`, or `[31/12/2021, 21:41:07] Ann: text` of an iPhone.

Owns: the lines of such a file, also inside the zip that WhatsApp sends. What WhatsApp itself wrote between the messages
is in `whatsapp_notices`, and the order of day and month in `dates`.
"""

import re
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import cast
from zipfile import BadZipFile, ZipFile, is_zipfile
from zipfile import Path as ZipMember

from convmodel.data.importing.exports.dates import CLOCK, DATE, WrittenDate, clock_of, moment
from convmodel.data.importing.exports.messages import Chat, Message
from convmodel.data.importing.exports.text_lines import (
    START,
    DatedEntry,
    add_unrecognised,
    first_lines,
    order_of_dates,
    text_lines,
)
from convmodel.data.importing.exports.whatsapp_notices import what_is_said, without_marks
from convmodel.data.reading.decoding import read_text
from convmodel.data.reading.problems import Problems
from convmodel.errors import ConversationError

FORMS = "`31/12/2021, 21:41 - Ann: text` or `[31/12/2021, 21:41:07] Ann: text`"
"""The lines that are understood, for messages."""

_STYLES = tuple(
    re.compile(rf"[\u200e\u200f\ufeff]*{opening}{DATE}[,،]?\s+{CLOCK}{closing}(?P<rest>.*)", re.IGNORECASE)
    for opening, closing in ((r"\[", r"\]\s?"), ("", r"\s[-\u2013]\s"))
)
# A name that leaves a quotation open is no name: `Ann changed the subject to "Trip: the plan"`.
_NAMED = re.compile(r"(?P<name>[^\n]{1,100}?):(?:\s(?P<text>.*))?", re.DOTALL)
_QUOTED = re.compile(r"""["“„«][^"“”„«»]*["“”»]""")
_TITLE = re.compile(r".*whatsapp.*?(?: - | with | mit | con | com | avec )(?P<name>.+)", re.IGNORECASE)

# What a damaged zip raises, and one with a password or a compression that is unknown here.
_BROKEN = (BadZipFile, EOFError, NotImplementedError, RuntimeError, UnicodeDecodeError, struct.error, zlib.error)


def matches(path: Path) -> bool:
    """Tells whether a file begins as WhatsApp's export of a chat, or is a zip of one."""
    lines = _zipped_lines(path) if _is_zip(path) else first_lines(path)
    return any(style.fullmatch(line) for line in lines[:10] for style in _STYLES)


def read(path: Path, problems: Problems) -> Iterator[Chat]:
    """Reads the one chat of an export; it stays in the order of the file.

    Raises:
        ConversationError: If the file cannot be read, or has a bad line and `problems` does not skip them.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = Path(folder, "WhatsApp Chat with Ann.txt")
        ...     _ = path.write_text("12/31/21, 9:41 PM - Ann: Hi")
        ...     [chat] = read(path, Problems())
        >>> chat.name, chat.messages[0].text, chat.messages[0].time.isoformat()
        ('Ann', 'Hi', '2021-12-31T21:41:00')
    """
    file, text = _text(path)
    lines = text.split("\n")
    entries = list(_entries(lines, file, problems))
    if not entries:
        add_unrecognised(problems, file, lines, f"no line is a message of WhatsApp, such as {FORMS}")
        return
    found = order_of_dates(entries, file, problems)
    if not found:
        return
    order, note = found
    chat = Chat(_chat_name(Path(file)), notes=[note])
    for entry in entries:
        _add(chat, entry, order, file, problems)
    yield chat


def _entries(lines: Sequence[str], file: str, problems: Problems) -> Iterator[DatedEntry]:
    # A message may hold lines pasted from another export; only those in the file's own style begin an entry.
    found = next((match for line in lines for style in _STYLES if (match := style.fullmatch(line))), None)
    if not found:
        return
    style, mark, entry = found.re, found["mark"], None
    for number, line in enumerate(lines, 1):
        match = style.fullmatch(line)
        if match and match["mark"] == mark:
            if entry:
                yield entry
            halved = bool(match["before"] or match["after"])
            entry = DatedEntry(WrittenDate(match["date"], number, clock_of(match), halved), number, [match["rest"]])
        elif entry:
            entry.lines.append(line)
        elif line.strip():
            problems.add(f"{file}:{number}: text before the first message: remove the line, or begin it as {FORMS}")
    if entry:
        yield entry


def _add(chat: Chat, entry: DatedEntry, order: str, file: str, problems: Problems) -> None:
    place = f"{file}:{entry.line}"
    time = moment(entry.date, order, place, problems)
    if not time:
        return
    name, text = _named("\n".join(entry.lines).rstrip())
    said, reason = what_is_said(text) if name else ("", "system message")
    if reason:
        chat.dropped[reason] += 1
    else:
        chat.messages.append(Message(name, said, time, place))


def _named(text: str) -> tuple[str, str]:
    """Splits an entry into who wrote it and the rest; nobody wrote what WhatsApp tells by itself."""
    match = _NAMED.fullmatch(text)
    if not match or re.search('["“„«»”]', _QUOTED.sub("", match["name"])):
        return "", text
    name = " ".join(without_marks(match["name"]).lstrip("~").split())  # `~ Ann` is not among the phone's contacts
    return name, match["text"] or ""


def _chat_name(file: Path) -> str:
    name = file.stem
    if name == "_chat":  # so an iPhone names it, in a folder or zip named after the chat
        name = file.parent.stem if file.parent.suffix == ".zip" else file.parent.name
    title = _TITLE.fullmatch(name)
    return title["name"] if title else name or file.stem


def _text(path: Path) -> tuple[str, str]:
    """Returns the name of the text file, for messages, and its text."""
    if not _is_zip(path):
        return str(path), read_text(path)
    try:
        with ZipFile(path) as archive:
            member = ZipMember(archive, _chat_member(archive.namelist(), path))
            return str(member), read_text(cast(Path, member))
    except _BROKEN as error:
        raise ConversationError(f"{path}: the zip cannot be unpacked: unpack it by hand ({error})") from error


def _chat_member(names: Iterable[str], path: Path) -> str:
    texts = [name for name in names if name.endswith(".txt") and not name.startswith("__MACOSX/")]
    named = [name for name in texts if Path(name).name == "_chat.txt" or "whatsapp" in name.casefold()]
    for found in (named, texts):
        if len(found) == 1:
            return found[0]
    raise ConversationError(f"{path}: {len(texts)} text files in the zip: unpack it, and pass the chat's own file")


def _is_zip(path: Path) -> bool:
    return path.suffix.casefold() == ".zip" and path.is_file() and is_zipfile(path)


def _zipped_lines(path: Path) -> list[str]:
    try:
        with ZipFile(path) as archive, archive.open(_chat_member(archive.namelist(), path)) as file:
            return text_lines(file.read(START))
    except (*_BROKEN, ConversationError, OSError):
        return []
