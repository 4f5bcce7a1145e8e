"""WhatsApp's exported chats: `31/12/2021, 21:41 - Ann: text`, or `[31/12/2021, 21:41:07] Ann: text` of an iPhone.

Owns: the lines of such a file, also inside the zip that WhatsApp sends. WhatsApp's own text among the messages is in
`whatsapp_notices`, and the order of day and month in `dates`.
"""

import re
import struct
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import cast
from zipfile import BadZipFile, ZipFile, is_zipfile
from zipfile import Path as ZipMember

from convmodel.data.importing.exports.dates import CLOCK, DATE, WrittenDate, clock_of
from convmodel.data.importing.exports.messages import Chat
from convmodel.data.importing.exports.text_lines import (
    DatedChat,
    DatedEntry,
    add_unrecognised,
    first_lines,
    read_dated,
)
from convmodel.data.importing.exports.whatsapp_notices import message_text, without_marks
from convmodel.data.reading.decoding import read_text
from convmodel.data.reading.problems import Problems
from convmodel.errors import ConversationError

FORMS = "`31/12/2021, 21:41 - Ann: text` or `[31/12/2021, 21:41:07] Ann: text`"
"""The expected lines, for error messages."""

_STYLES = tuple(
    re.compile(rf"[\u200e\u200f\ufeff]*{opening}{DATE}[,،]?\s+{CLOCK}{closing}(?P<rest>.*)", re.IGNORECASE)
    for opening, closing in ((r"\[", r"\]\s?"), ("", r"\s[-\u2013]\s"))
)
# Text with an open quotation is not a name: `Ann changed the subject to "Trip: the plan"`.
_NAMED = re.compile(r"(?P<name>[^\n]{1,100}?):(?:\s(?P<text>.*))?", re.DOTALL)
_QUOTED = re.compile(r"""["“„«][^"“”„«»]*["“”»]""")
_TITLE = re.compile(r".*whatsapp.*?(?: - | with | mit | con | com | avec )(?P<name>.+)", re.IGNORECASE)

# Errors of a damaged zip, and of one with a password or an unknown compression.
_BROKEN = (BadZipFile, EOFError, NotImplementedError, RuntimeError, UnicodeDecodeError, struct.error, zlib.error)


def matches(path: Path) -> bool:
    """Returns whether a file begins as WhatsApp's export of a chat, or is a zip of one."""
    lines: list[str] = []
    with suppress(ConversationError, OSError), _chat_file(path) as file:
        lines = first_lines(file)
    return any(style.fullmatch(line) for line in lines[:10] for style in _STYLES)


def read(path: Path, problems: Problems) -> Iterator[Chat]:
    """Reads the one chat of an export, in the order of the file.

    Raises:
        ConversationError: If the file cannot be read, or has a bad line and problems are errors.
    """
    with _chat_file(path) as chat_file:
        file, lines = str(chat_file), read_text(chat_file).split("\n")
    entries = list(_entries(lines, file, problems))
    if not entries:
        add_unrecognised(problems, file, lines, f"no line is a message of WhatsApp, such as {FORMS}")
        return
    chat = DatedChat(Chat(_chat_name(Path(file))), entries)
    yield from read_dated([chat], file, problems, _speaker_and_text)


def _entries(lines: Sequence[str], file: str, problems: Problems) -> Iterator[DatedEntry]:
    # A message may hold lines pasted from another export; only lines in the style of the first begin an entry.
    first = next((match for line in lines for style in _STYLES if (match := style.fullmatch(line))), None)
    if not first:
        return
    style, mark, entry = first.re, first["mark"], None
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


def _speaker_and_text(entry: str) -> tuple[str, str] | str:
    name, rest = _named(entry.rstrip())
    text, reason = message_text(rest) if name else ("", "system message")
    return reason or (name, text)


def _named(text: str) -> tuple[str, str]:
    """Splits an entry into its speaker and the rest; WhatsApp's own notices have no speaker."""
    match = _NAMED.fullmatch(text)
    if not match or re.search('["“„«»”]', _QUOTED.sub("", match["name"])):
        return "", text
    name = " ".join(without_marks(match["name"]).lstrip("~").split())  # `~ Ann` is not a contact
    return name, match["text"] or ""


def _chat_name(file: Path) -> str:
    name = file.stem
    if name == "_chat":  # an iPhone's name, in a folder or zip named after the chat
        name = file.parent.stem if file.parent.suffix == ".zip" else file.parent.name
    title = _TITLE.fullmatch(name)
    return title["name"] if title else name or file.stem


@contextmanager
def _chat_file(path: Path) -> Iterator[Path]:
    """Opens the zip that a path may be, and gives the text file, inside it or not."""
    if path.suffix.casefold() != ".zip" or not path.is_file() or not is_zipfile(path):
        yield path
        return
    try:
        with ZipFile(path) as archive:
            yield cast(Path, ZipMember(archive, _chat_member(archive.namelist(), path)))
    except _BROKEN as error:
        raise ConversationError(f"{path}: the zip cannot be unpacked: unpack it by hand ({error})") from error


def _chat_member(names: Iterable[str], path: Path) -> str:
    texts = [name for name in names if name.endswith(".txt") and not name.startswith("__MACOSX/")]
    named = [name for name in texts if Path(name).name == "_chat.txt" or "whatsapp" in name.casefold()]
    for choice in (named, texts):
        if len(choice) == 1:
            return choice[0]
    raise ConversationError(f"{path}: {len(texts)} text files in the zip: unpack it, and pass the chat's own file")
