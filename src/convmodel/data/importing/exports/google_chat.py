"""Google Chat's direct messages and spaces, as Google Takeout exports them.

Owns: the syntax of `messages.json`, and of its dates, which are written in English.
"""

import re
from collections import Counter
from collections.abc import Iterator
from datetime import datetime
from pathlib import PurePosixPath
from typing import Any

from convmodel.data.importing.exports.archive import JsonExport, JsonFile, Outline
from convmodel.data.importing.exports.json_fields import (
    DELETED,
    Entry,
    Speakers,
    a_list,
    a_string,
    add_entries,
    an_object,
    list_in,
    name_or,
    placed,
    sort_by_time,
)
from convmodel.data.importing.exports.messages import Chat, Message
from convmodel.data.reading.problems import Problems
from convmodel.errors import ConversationError

_MONTHS = ["January", "February", "March", "April", "May", "June", "July"]
_MONTHS += ["August", "September", "October", "November", "December"]
_DATE = re.compile(
    rf"(?:\w+day, )?({'|'.join(_MONTHS)}) (\d{{1,2}}), (\d{{4}})(?: at|,) (\d{{1,2}}):(\d\d):(\d\d)\s?([AP])M UTC"
)


def _is_export(keys: Outline) -> bool:
    return "messages" in keys[1] and {"creator", "created_date"} <= keys[3]


def _chats(files: Iterator[JsonFile], problems: Problems) -> Iterator[Chat]:
    """Reads the chats; a thread (a topic of several messages) is a chat of its own."""
    speakers = Speakers()
    for name, file, value in files:
        entries = placed(file, list_in(value, "messages", str(file), problems))
        sizes = Counter(name_or(entry, "topic_id", "") for _, entry in entries)
        threads: dict[str, list[tuple[str, Any]]] = {"": []}
        for place, entry in entries:
            topic = name_or(entry, "topic_id", "")
            threads.setdefault(topic if sizes[topic] > 1 else "", []).append((place, entry))
        title = PurePosixPath(name).parent.name or file.parent.name
        for topic, thread in threads.items():
            chat = Chat(f"{title}, thread {topic}" if topic else title, parted=not topic)
            add_entries(chat, thread, problems, lambda entry, place: _message(entry, place, speakers))
            sort_by_time(chat)
            if chat.entries:
                yield chat


EXPORT = JsonExport(
    _is_export,
    "messages.json of Google Chat: give a folder of Groups in the Takeout",
    _chats,
    names=(r"(.*/)?messages\.json",),
)
matches, read = EXPORT.matches, EXPORT.read


def _message(entry: Entry, place: str, speakers: Speakers) -> Message | str:
    time = _time(a_string(entry, "created_date"))
    creator = an_object(entry.get("creator") or {})
    email, name = a_string(creator, "email"), a_string(creator, "name")
    text = a_string(entry, "text")
    if entry.get("deletion_metadata") or a_string(entry, "message_state") == "DELETED":
        return "deleted message"
    if a_string(creator, "user_type") == "Bot":
        return "bot message"
    if not text:
        is_media = a_list(entry, "attached_files") or a_list(entry, "annotations")
        return "media" if is_media else "empty message"
    return Message(speakers.name(email, name or email or DELETED), text, time, place)


def _time(text: str) -> datetime:
    match = _DATE.fullmatch(text)
    if not match:
        wrong = f"created_date {text[:60]!r} is not a time in English" if text else "there is no created_date"
        raise ConversationError(f"{wrong}: set the language of the account to English, and export again")
    month, day, year, hour, minute, second, half = match.groups()
    try:
        hours = int(hour) % 12 + 12 * (half == "P")
        return datetime(int(year), _MONTHS.index(month) + 1, int(day), hours, int(minute), int(second))
    except ValueError as error:
        raise ConversationError(f"created_date {text[:60]!r} is not a time ({error})") from error
