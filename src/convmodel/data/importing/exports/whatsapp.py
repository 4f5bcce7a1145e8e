"""WhatsApp's exported chats: `31/12/2021, 21:41 - Ann: text`, or `[31/12/2021, 21:41:07] Ann: text` of an iPhone.

Owns: the lines of such a file, also inside the zip that WhatsApp sends. How a line begins is in `heads`, who speaks in
`whatsapp_names`, and WhatsApp's own text among the messages in `whatsapp_notices`.
"""

import re
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import cast
from zipfile import BadZipFile, ZipFile, is_zipfile
from zipfile import Path as ZipMember

from convmodel.data.importing.exports.heads import MARKS, Head, head_of, unknown_heads
from convmodel.data.importing.exports.messages import Chat
from convmodel.data.importing.exports.text_lines import (
    DatedChat,
    DatedEntry,
    add_pasted,
    add_unrecognised,
    collect_entries,
    first_lines,
    read_dated,
)
from convmodel.data.importing.exports.whatsapp_names import Speakers
from convmodel.data.importing.exports.whatsapp_notices import OwnText
from convmodel.data.reading.decoding import read_text
from convmodel.data.reading.problems import SHOWN, Problems
from convmodel.errors import ConversationError

FORMS = "`31/12/2021, 21:41 - Ann: text` or `[31/12/2021, 21:41:07] Ann: text`"
"""The expected lines, for error messages."""

# What WhatsApp copies from a chat for pasting, without the year.
_COPIED = re.compile(r"\[\d{1,2}[/.\-]\d{1,2},?\s[^\]\n]{4,20}\]\s")
_TITLE = re.compile(r".*whatsapp.*?(?: - | with | mit | con | com | avec )(?P<name>.+)", re.IGNORECASE)

# Errors of a damaged zip, and of one with a password or an unknown compression.
_BROKEN = (BadZipFile, EOFError, NotImplementedError, RuntimeError, UnicodeDecodeError, struct.error, zlib.error)


def matches(path: Path) -> bool:
    """Returns whether a file begins as WhatsApp's export of a chat, or is a zip of one."""
    lines: list[str] = []
    with suppress(ConversationError, OSError), _chat_file(path) as file:
        lines = first_lines(file)
    return bool(_forms([head for line in lines[:10] if (head := head_of(line, 1))]))


def read(path: Path, problems: Problems) -> Iterator[Chat]:
    """Reads the one chat of an export, in the order of the file.

    Raises:
        ConversationError: If the file cannot be read, or has a bad line and problems are errors.
    """
    with _chat_file(path) as chat_file:
        file, lines = str(chat_file), read_text(chat_file).split("\n")
    heads = {number: head for number, line in enumerate(lines, 1) if (head := head_of(line, number))}
    forms = _forms(heads.values())
    if not forms:
        add_unrecognised(problems, file, lines, f"no line is a message of WhatsApp, such as {FORMS}")
        return
    heads = {number: head for number, head in heads.items() if head.form in forms}
    speakers = Speakers(
        ((number, head.rest) for number, head in heads.items()),
        bare_notices=any(head.kind != "[" for head in heads.values()),
    )
    chat = DatedChat(Chat(_chat_name(Path(file)), notes=speakers.notes))
    starts = _Starts(lines, heads, speakers)
    chat.entries = collect_entries(lines, range(len(lines)), starts.begin, file, FORMS, problems)
    add_pasted(chat.chat, starts.pasted)
    del lines, heads, starts  # the entries hold what is needed
    own_text = OwnText(entry.lines[0] for entry in chat.entries)
    yield from read_dated([chat], file, problems, partial(_speaker_and_text, speakers, own_text))
    if own_text.edited:
        listed = ", ".join(f"{mark} ({count:,})" for mark, count in own_text.edited.most_common(SHOWN))
        chat.chat.notes.append(f"taken for marks of edited messages, and removed: {listed}")


def _forms(heads: Iterable[Head]) -> set[str]:
    """Returns the forms of messages: with a name in one line or more, or the first one in brackets or with a dash."""
    heads = list(heads)
    named = {head.form for head in heads if ":" in head.rest or "\uff1a" in head.rest}
    return named | {head.form for head in heads[:1] if head.kind != ":" and not head.unknown}


class _Starts:
    """What the lines of an export begin.

    Attributes:
        pasted: Numbers of the lines that begin a message copied from a chat, without the year.
    """

    def __init__(self, lines: Sequence[str], heads: Mapping[int, Head], speakers: Iterable[str]) -> None:
        self._lines, self._heads = lines, heads
        self._begins_a_message = unknown_heads(list(speakers))
        self.pasted: list[int] = []

    def begin(self, index: int) -> DatedEntry | str | None:
        """Returns the entry that a line begins, or what is wrong with it; None if it continues another."""
        line, number = self._lines[index], index + 1
        if head := self._heads.get(number):
            if not head.unknown:
                return DatedEntry(head.date, number, [head.rest], head.form)
            return (
                f"{head.unknown!r} beside the date or time is not a known word: export the chat again with a clock of "
                "24 hours, or correct the line"
            )
        if not self._begins_a_message(line):
            return None
        if _COPIED.match(MARKS.sub("", line)):
            self.pasted.append(number)
            return ""
        return f"this line begins like a message in an unknown form: begin it as {FORMS}, or indent it if it is text"


def _speaker_and_text(speakers: Speakers, own_text: OwnText, entry: str) -> tuple[str, str, tuple[str, ...]] | str:
    name, rest = speakers.split(entry.rstrip())
    text, reason = own_text.message(name, rest) if name else ("", "system message")
    return reason or (name, text, ())


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
