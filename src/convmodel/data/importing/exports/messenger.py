"""Chats that Facebook Messenger and Instagram export as JSON, in their older and their newer (encrypted chats') form.

Owns: the syntax of `message_1.json`, and the repair of its texts.
"""

import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import PurePosixPath

from convmodel.data.importing.exports.archive import ANY_NAME, JsonExport, JsonFile, Outline
from convmodel.data.importing.exports.json_fields import (
    DELETED,
    Entry,
    a_string,
    add_list,
    checked_text,
    name_or,
    sort_by_time,
    unix_time,
)
from convmodel.data.importing.exports.messages import Chat, Message
from convmodel.data.reading.problems import Problems

_NUMBERED = re.compile(r"message_(\d+)\.json")
_MEDIA = ("photos", "videos", "audio_files", "gifs", "files", "sticker", "share", "media")
_SYSTEM_TYPES = ("Call", "Subscribe", "Unsubscribe", "Plan", "Payment")
_MILLISECOND = 1e-3

_REACTION = re.compile(r"(Reacted \S+ to your message|Liked a message)\.?")
# What the program writes after the name of the sender or "You". People rarely write so of
# themselves, except "You called me."
_REACTED = re.compile(r"(liked|reacted \S+ to) (a|your) message\.?")
_ATTACHED = re.compile(r"sent (an attachment|(a|\d+) (photo|video|link|sticker|GIF|voice message|live location)s?)\.")
_NOTICE = re.compile(
    r"((joined|started|ended|left) (the|a) ((video|audio) )?(chat|call)|called (?!me\b).*|missed (a|your) .*"
    r"|(created|left|named|(added|removed) .* (to|from)) the group.*|changed the (group photo|theme.*)"
    r"|set (the|your|his own|her own) .*(nickname|reaction|emoji) .*|(pinned|unpinned) a message"
    r"|turned (on|off) (vanish mode|disappearing messages).*)\."
)


def _is_export(keys: Outline) -> bool:
    sender = {"sender_name", "timestamp_ms"} <= keys[3] or {"senderName", "timestamp", "isUnsent"} <= keys[3]
    return "messages" in keys[1] and sender


def _chats(files: Iterator[JsonFile], problems: Problems) -> Iterator[Chat]:
    """Reads the chats; `message_1.json`, `message_2.json` ... of one folder become one chat."""
    for _, group in groupby(files, key=lambda file: _order(file.name)[0]):
        parts = list(group)
        value = parts[0].value
        name = name_or(value, "title", "") or name_or(value, "threadName", "")
        chat = Chat(_repaired(name) or parts[0].path.name)
        for part in parts:
            add_list(chat, part.value, "messages", str(part.path), problems, _message)
        sort_by_time(chat)
        yield chat


def _order(name: str) -> tuple[str, int]:
    """Returns the chat that a file is a part of, and the number of the part."""
    numbered = _NUMBERED.fullmatch(PurePosixPath(name).name)
    return (str(PurePosixPath(name).parent), int(numbered[1])) if numbered else (name, 0)


EXPORT = JsonExport(
    _is_export,
    "message_1.json of Messenger or Instagram: export the messages as JSON",
    _chats,
    names=(rf"(.*/)?{_NUMBERED.pattern}", ANY_NAME),
    order=_order,
)
matches, read = EXPORT.matches, EXPORT.read


def _message(entry: Entry, place: str) -> Message | str:
    if "senderName" in entry:  # the newer form, whose text is valid
        sender, text = a_string(entry, "senderName"), a_string(entry, "text")
        time = unix_time(entry.get("timestamp"), "timestamp", _MILLISECOND)
    else:
        # White space may be half of a character until the text is repaired.
        sender = _repaired(checked_text(entry.get("sender_name"), "sender_name")).strip()
        text = _repaired(checked_text(entry.get("content", ""), "content")).strip()
        time = unix_time(entry.get("timestamp_ms"), "timestamp_ms", _MILLISECOND)
    return _left_out(entry, sender, text) or Message(sender or DELETED, text, time, place)


def _left_out(entry: Entry, sender: str, text: str) -> str | None:
    """Returns why an entry is left out; None if it is a message."""
    notice = _notice(sender, text)
    if entry.get("is_unsent") is True or entry.get("isUnsent") is True:
        return "deleted message"
    if entry.get("type") in _SYSTEM_TYPES or "call_duration" in entry or _NOTICE.fullmatch(notice):
        return "system message"
    if _REACTION.fullmatch(text) or _REACTED.fullmatch(notice):
        return "reaction"
    if not text or _ATTACHED.fullmatch(notice):
        return "media" if notice or any(entry.get(key) for key in _MEDIA) else "empty message"
    return None


def _notice(sender: str, text: str) -> str:
    """Returns what follows the sender's name or "You" at the start of a text: a notice, if the program wrote it."""
    for name in (sender, "You"):
        if name and text.startswith(f"{name} "):
            return text[len(name) + 1 :]
    return ""


def _repaired(text: str) -> str:
    """Decodes text whose characters are the bytes of UTF-8, as these exports write it; other text is unchanged."""
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text
