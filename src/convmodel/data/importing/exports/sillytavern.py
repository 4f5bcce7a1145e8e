"""Chats of SillyTavern: JSON Lines, of which the first describes the chat, except in groups of older versions.

Owns: the syntax of these files.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from convmodel.data.importing.exports.json_fields import Entry, a_string, add_entries, an_object
from convmodel.data.importing.exports.messages import Chat, Message
from convmodel.data.importing.exports.text_lines import first_lines
from convmodel.data.reading.decoding import read_text
from convmodel.data.reading.problems import Problems
from convmodel.errors import ConversationError

_HEADER = {"user_name", "character_name"}
_MESSAGE = {"name", "is_user", "mes"}


def matches(path: Path) -> bool:
    """Returns whether a file begins with the description, or a message, of a chat of SillyTavern."""
    lines = first_lines(path)[:1] if path.suffix.casefold() == ".jsonl" else []
    first = _parsed(lines[0]) if lines else None
    return isinstance(first, dict) and (first.keys() >= _HEADER or first.keys() >= _MESSAGE)


def read(path: Path, problems: Problems) -> Iterator[Chat]:
    """Reads the one chat of a file; its messages have no times, since SillyTavern writes them in many forms.

    Raises:
        ConversationError: If the file cannot be read, or has a bad line and problems are errors.
    """
    chat = Chat(path.stem, parted=False)
    lines = enumerate(read_text(path).split("\n"), 1)
    entries = [(f"{path}:{number}", _parsed(line)) for number, line in lines if line.strip()]
    has_header = bool(entries) and isinstance(entries[0][1], dict) and "mes" not in entries[0][1]
    add_entries(chat, entries[has_header:], problems, _message)
    yield chat


def _parsed(line: str) -> Any:
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        return None


def _message(entry: Entry, place: str) -> Message | str:
    name, text = a_string(an_object(entry), "name"), a_string(entry, "mes")
    if entry.get("is_system") is True:
        return "system message"
    if not name or "mes" not in entry:
        raise ConversationError("there is no name" if not name else "there is no mes, the text of the message")
    return Message(name, text, None, place) if text else "empty message"
