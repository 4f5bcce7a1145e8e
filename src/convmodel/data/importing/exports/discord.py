"""Channels of Discord as DiscordChatExporter writes them to JSON.

Owns: the syntax of these files.
"""

import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path
from typing import Any

from convmodel.data.importing.exports.archive import candidates, export_files, json_values, outline
from convmodel.data.importing.exports.json_fields import (
    Entry,
    Found,
    Speakers,
    a_list,
    a_string,
    add_list,
    an_object,
    iso_time,
    name_or,
    sort_by_time,
)
from convmodel.data.importing.exports.messages import Chat, Message
from convmodel.data.reading.problems import Problems
from convmodel.errors import ConversationError

_SAID = {"Default", "Reply"}
_MEDIA = ("attachments", "embeds", "stickers")
_EMOJI = re.compile(r"<a?(:\w+:)\d+>")
_MENTION = re.compile(r"<@!?(\d+)>")


def matches(path: Path) -> bool:
    """Tells whether this is an export of DiscordChatExporter: one JSON file, or a folder of them."""
    return any(_is_export(file) for file in candidates(path))


def read(path: Path, problems: Problems) -> Iterator[Chat]:
    """Reads the channels of an export; files that hold parts of one channel become one chat.

    Raises:
        ConversationError: If the file cannot be read, or something in it is wrong and problems are errors.

    Example:
        >>> import json, tempfile
        >>> file = Path(tempfile.mkdtemp()) / "general.json"
        >>> message = {"id": "1", "type": "Default", "timestamp": "2024-05-01T12:30:00+00:00", "content": "Hi"}
        >>> message["author"] = {"id": "7", "name": "ann", "nickname": "Ann", "isBot": False}
        >>> _ = file.write_text(json.dumps({"guild": {}, "channel": {"name": "general"}, "messages": [message]}))
        >>> [message.speaker for chat in read(file, Problems()) for message in chat.messages]
        ['Ann']
    """
    files = export_files(path, _is_export, "JSON file of DiscordChatExporter: export the channels as JSON")
    speakers = Speakers()
    for _, parts in groupby(json_values(path, files, problems), key=lambda found: _channel(found[1], found[2])):
        yield _chat([(file, value) for _, file, value in parts], problems, speakers)


def _is_export(file: Path) -> bool:
    return {"guild", "channel", "messages"} <= outline(file)[1]


def _channel(file: Path, value: Any) -> str:
    """Names the channel that a file is a part of: an export in parts has one file for each."""
    return name_or(value.get("channel") if isinstance(value, dict) else None, "id", str(file))


def _name(value: Any, file: Path) -> str:
    if not isinstance(value, dict):
        return file.name
    names = [name_or(value.get(key), "name", "") for key in ("guild", "channel")]
    return " / ".join(filter(None, names)) or file.name


def _chat(parts: list[tuple[Path, Any]], problems: Problems, speakers: Speakers) -> Chat:
    chat = Chat(_name(parts[0][1], parts[0][0]))
    seen: set[str] = set()
    for file, value in parts:
        add_list(
            chat, value, "messages", str(file), problems, lambda entry, place: _found(entry, place, speakers, seen)
        )
    sort_by_time(chat)
    return chat


def _found(entry: Entry, place: str, speakers: Speakers, seen: set[str]) -> Found:
    time = iso_time(entry.get("timestamp"), "timestamp")
    kind = a_string(entry, "type")
    author = an_object(entry.get("author"))
    number = a_string(entry, "id")
    if not kind:
        raise ConversationError("there is no type")
    if number and number in seen:  # two exports of the channel may overlap
        return "repeated message"
    name = a_string(author, "nickname") or a_string(author, "name")
    if not name:
        raise ConversationError("the author has no name")
    text = _text(entry)
    seen.add(number)
    if kind not in _SAID:
        return "system message"
    if author.get("isBot") is True:
        return "bot message"
    if not text:
        return "media" if any(entry.get(key) for key in _MEDIA) else "empty message"
    return Message(speakers.name(a_string(author, "id"), name), text, time, place)


def _text(entry: Entry) -> str:
    names = {
        person.get("id"): a_string(person, "nickname") or a_string(person, "name")
        for person in map(an_object, a_list(entry, "mentions"))
        if isinstance(person.get("id"), str)
    }
    text = _EMOJI.sub(r"\1", a_string(entry, "content"))
    return _MENTION.sub(lambda mark: f"@{names[mark[1]]}" if names.get(mark[1]) else mark[0], text)
