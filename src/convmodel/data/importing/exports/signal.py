"""Signal's chats as signal-export writes them in Markdown: `[2021-12-31 21:41:07] Ann: text`, with quotes as `> text`.

Owns: the lines of such a file, and what belongs to a message in Markdown: quotes, reactions, stickers and attachments.
"""

import re
from collections.abc import Iterator
from pathlib import Path

from convmodel.data.importing.exports.heads import head_of, unknown_heads
from convmodel.data.importing.exports.json_fields import QUOTE
from convmodel.data.importing.exports.messages import Chat
from convmodel.data.importing.exports.text_lines import (
    DatedChat,
    DatedEntry,
    add_unrecognised,
    collect_entries,
    first_lines,
    read_dated,
)
from convmodel.data.reading.decoding import read_text
from convmodel.data.reading.problems import Problems

FORMS = "`[2021-12-31 21:41:07] Ann: text`"
"""The expected lines, for error messages."""

_LINE = re.compile(r"\[\d{4}-\d\d-\d\d \d\d:\d\d(?::\d\d)?\] (?P<name>[^\n:]{1,100}):(?: (?P<text>.*))?")
_QUOTE = re.compile(r"\A\s*(?:>[^\n]*\n?)+\s*")
_REACTIONS = re.compile(r"^\(- [^\n]+: [^\n]+ -\)", re.MULTILINE)
_STICKER = re.compile(r"^\(\( [^\n]* \)\)", re.MULTILINE)
_ATTACHMENT = re.compile(r"!?\[[^\[\]\n]*\]\((?:\./|\.\./|media/)[^()\s]*\)")
_MARKDOWN = (_REACTIONS, _STICKER, _ATTACHMENT)
_CALL = re.compile(r"(?:Incoming|Outgoing|Missed)(?: voice| video)? call(?: \([^()\n]*\))?")
_DELETED = "(This message was deleted)"
_NOBODY = "No-Sender"


def matches(path: Path) -> bool:
    """Returns whether a file begins as Signal's chat in Markdown, not as WhatsApp's, whose lines may look the same."""
    lines = first_lines(path)
    if not lines or not _LINE.fullmatch(lines[0]):
        return False
    if path.suffix.casefold() == ".md" or any(pattern.search(line) for line in lines for pattern in _MARKDOWN):
        return True
    messages = [line for line in lines if _LINE.fullmatch(line)]
    return 2 * sum(line.endswith("  ") for line in messages) > len(messages)


def read(path: Path, problems: Problems) -> Iterator[Chat]:
    """Reads the one chat of a file; `chat.md` is named after its folder.

    Raises:
        ConversationError: If the file cannot be read, or has a bad line and problems are errors.
    """
    lines = [line.rstrip() for line in read_text(path).split("\n")]
    matched = {index: match for index, line in enumerate(lines) if (match := _LINE.fullmatch(line))}
    if not matched:
        add_unrecognised(problems, str(path), lines, f"no line is a message of Signal, such as {FORMS}")
        return
    begins_a_message = unknown_heads({match["name"] for match in matched.values()})

    def begin(index: int) -> DatedEntry | str | None:
        line, head = lines[index], head_of(lines[index], index + 1)
        if head and index in matched:
            return DatedEntry(head.date, index + 1, [head.rest], head.form)
        if head or begins_a_message(line):
            return (
                f"this line begins like a message in an unknown form: begin it as {FORMS}, or indent it if it is text"
            )
        return None

    chat = DatedChat(Chat(path.resolve().parent.name if path.stem in ("chat", "index") else path.stem))
    chat.entries = collect_entries(lines, range(len(lines)), begin, str(path), FORMS, problems)
    yield from read_dated([chat], str(path), problems, _speaker_and_text)


def _speaker_and_text(entry: str) -> tuple[str, str, tuple[str, ...]] | str:
    name, _, text = entry.partition(":")
    text, quotes = _QUOTE.subn("", text)
    text = _REACTIONS.sub("", text)
    text, stickers = _STICKER.subn("", text)
    text, attachments = _ATTACHMENT.subn("", text)
    text = text.strip()
    if name == _NOBODY or _CALL.fullmatch(text):
        return "system message"
    if text == _DELETED:
        return "deleted message"
    if not text:
        return "media" if stickers or attachments else QUOTE if quotes else "empty message"
    return name, text, (QUOTE,) if quotes else ()
