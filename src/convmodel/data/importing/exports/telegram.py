"""Chats that Telegram Desktop exported as JSON: one chat, or all of an account.

Owns: the syntax of `result.json`.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from convmodel.data.importing.exports.archive import JsonExport, JsonFile, Outline
from convmodel.data.importing.exports.json_fields import (
    DELETED,
    QUOTE,
    Entry,
    Speakers,
    a_string,
    add_entries,
    checked_text,
    iso_time,
    list_in,
    name_or,
    placed,
    sort_by_time,
    unix_time,
)
from convmodel.data.importing.exports.messages import Chat, Message
from convmodel.data.reading.problems import Problems
from convmodel.errors import ConversationError

LOCAL_TIME = "the times have no zone: they are kept as written"

_MEDIA = (
    "photo",
    "file",
    "media_type",
    "location_information",
    "place_name",
    "contact_information",
    "poll",
    "todo_list",
    "game_title",
    "invoice_information",
    "giveaway_information",
    "giveaway_results",
    "paid_stars_amount",
)

# Telegram writes null where it does not know whose words they were.
_FORWARDED = ("forwarded_from", "forwarded_from_id", "saved_from")
_BY_BOT = ("via_bot", "inline_bot_buttons")


def _is_export(keys: Outline) -> bool:
    one_chat = {"type", "id", "messages"} <= keys[1] and {"id", "type", "date", "text"} <= keys[3]
    some_chats = bool({"chats", "left_chats"} & keys[1]) and "list" in keys[2]
    # The contacts come before the chats, and there may be thousands.
    account = {"about", "personal_information"} <= keys[1]
    return one_chat or some_chats or account


def _chats(files: Iterator[JsonFile], problems: Problems) -> Iterator[Chat]:
    speakers = Speakers()
    for _, file, value in files:
        for place, chat in _parts(value, file, problems):
            yield _chat(chat, place, problems, speakers)


EXPORT = JsonExport(
    _is_export, "result.json of Telegram: export the chat as JSON", _chats, names=(r"(.*/)?result\.json",)
)
matches, read = EXPORT.matches, EXPORT.read


def _parts(value: Any, file: Path, problems: Problems) -> Iterator[tuple[str, Any]]:
    """Yields the chats of one file, each with its place."""
    if not isinstance(value, dict) or not {"messages", "chats", "left_chats"} & value.keys():
        problems.add(f"{file}: neither messages nor chats: export from Telegram Desktop as JSON")
        return
    if "messages" in value:
        yield str(file), value
    for key in ("chats", "left_chats"):
        if key in value:
            chats = list_in(value[key], "list", f"{file}: {key}", problems)
            # The key distinguishes the chats of both lists: `result.json: left_chats 2: message 7`.
            yield from ((f"{file}: {key} {number}", chat) for number, chat in enumerate(chats, 1))


def _chat(value: Any, place: str, problems: Problems, speakers: Speakers) -> Chat:
    entries = placed(place, list_in(value, "messages", place, problems))
    kind = name_or(value, "type", "chat").replace("_", " ")
    chat = Chat(name_or(value, "name", kind))
    add_entries(chat, entries, problems, lambda entry, place: _message(entry, place, speakers))
    sort_by_time(chat)
    if any(isinstance(entry, dict) and "date_unixtime" not in entry for _, entry in entries):
        chat.notes.append(LOCAL_TIME)
    return chat


def _message(entry: Entry, place: str, speakers: Speakers) -> Message | str:
    seconds = entry.get("date_unixtime")
    time = iso_time(entry.get("date"), "date") if seconds is None else unix_time(seconds, "date_unixtime")
    kind = a_string(entry, "type")
    if not kind:
        raise ConversationError("there is no type")
    if kind != "message":
        return "system message"
    text, without = _text(entry)
    if any(key in entry for key in _FORWARDED):
        return "forwarded message"
    if any(entry.get(key) for key in _BY_BOT):
        return "bot message"
    if not text:
        return "media" if any(entry.get(key) for key in _MEDIA) else QUOTE if without else "empty message"
    sender = entry.get("from_id")
    key = str(sender) if isinstance(sender, int) else a_string(entry, "from_id")  # older exports write a number
    name = a_string(entry, "from") or key or DELETED
    return Message(speakers.name(key, name), text, time, place, without)


def _text(entry: Entry) -> tuple[str, tuple[str, ...]]:
    """Returns the text of a message, a string, or a list of strings and marked parts such as links.

    Quotes are not a part of it; the second value tells whether there were any.
    """
    value = entry.get("text")
    if not isinstance(value, list):
        return a_string(entry, "text"), ()
    own = [part for part in value if not _is_quote(part)]
    parts = (part.get("text") if isinstance(part, dict) else part for part in own)
    # White space between a link and what follows is a part of the text.
    text = "".join(checked_text(part, "text") for part in parts).strip()
    return text, (QUOTE,) if len(own) < len(value) else ()


def _is_quote(part: Any) -> bool:
    return isinstance(part, dict) and part.get("type") in ("blockquote", "expandable_blockquote")
