"""Channels of Discord as DiscordChatExporter writes them to JSON.

Owns: the syntax of these files.
"""

import re
from collections.abc import Iterator
from itertools import groupby

from convmodel.data.importing.exports.archive import JsonExport, JsonFile, Outline
from convmodel.data.importing.exports.json_fields import (
    QUOTE,
    Entry,
    Speakers,
    a_list,
    a_string,
    add_list,
    an_object,
    iso_time,
    name_or,
    sort_by_time,
    unquoted,
)
from convmodel.data.importing.exports.messages import Chat, Message
from convmodel.data.reading.problems import Problems
from convmodel.errors import ConversationError

_SPOKEN = {"Default", "Reply"}
_MEDIA = ("attachments", "embeds", "stickers")
_EMOJI = re.compile(r"<a?(:\w+:)\d+>")
_MENTION = re.compile(r"<@!?(\d+)>")


def _is_export(keys: Outline) -> bool:
    return {"guild", "channel", "messages"} <= keys[1]


def _chats(files: Iterator[JsonFile], problems: Problems) -> Iterator[Chat]:
    """Reads the channels; files that hold parts of one channel become one chat."""
    speakers = Speakers()
    for _, parts in groupby(files, key=lambda file: _name_in(file, "channel", "id", str(file.path))):
        yield _chat(list(parts), problems, speakers)


EXPORT = JsonExport(_is_export, "JSON file of DiscordChatExporter: export the channels as JSON", _chats)
matches, read = EXPORT.matches, EXPORT.read


def _name_in(file: JsonFile, key: str, name: str, default: str) -> str:
    return name_or(file.value.get(key) if isinstance(file.value, dict) else None, name, default)


def _chat(parts: list[JsonFile], problems: Problems, speakers: Speakers) -> Chat:
    names = [_name_in(parts[0], key, "name", "") for key in ("guild", "channel")]
    chat = Chat(" / ".join(filter(None, names)) or parts[0].path.name)
    seen: set[str] = set()
    for _, file, value in parts:
        add_list(
            chat, value, "messages", str(file), problems, lambda entry, place: _message(entry, place, speakers, seen)
        )
    sort_by_time(chat)
    return chat


def _message(entry: Entry, place: str, speakers: Speakers, seen: set[str]) -> Message | str:
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
    text, without = unquoted(_text(entry))
    seen.add(number)
    if kind not in _SPOKEN:
        return "system message"
    if author.get("isBot") is True or entry.get("interaction"):
        return "bot message"
    if _is_forwarded(entry):
        return "forwarded message"
    if not text:
        return "media" if any(entry.get(key) for key in _MEDIA) else QUOTE if without else "empty message"
    return Message(speakers.name(a_string(author, "id"), name), text, time, place, without)


def _is_forwarded(entry: Entry) -> bool:
    reference = entry.get("reference")
    return bool(entry.get("forwardedMessage")) or (isinstance(reference, dict) and reference.get("type") == "Forward")


def _text(entry: Entry) -> str:
    names = {
        person.get("id"): a_string(person, "nickname") or a_string(person, "name")
        for person in map(an_object, a_list(entry, "mentions"))
        if isinstance(person.get("id"), str)
    }
    text = _EMOJI.sub(r"\1", a_string(entry, "content"))
    return _MENTION.sub(lambda mark: f"@{names[mark[1]]}" if names.get(mark[1]) else mark[0], text)
