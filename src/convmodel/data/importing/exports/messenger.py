"""Chats that Facebook Messenger and Instagram export as JSON, in their older and their newer (encrypted chats') form.

Owns: the syntax of `message_1.json`, and the repair of its texts.
"""

import re
from collections.abc import Iterator
from itertools import groupby
from pathlib import Path, PurePosixPath
from typing import Any

from convmodel.data.importing.exports.archive import candidates, export_files, json_values, outline
from convmodel.data.importing.exports.json_fields import (
    Entry,
    Found,
    a_string,
    add_list,
    checked_text,
    name_or,
    sort_by_time,
    unix_time,
)
from convmodel.data.importing.exports.messages import Chat, Message
from convmodel.data.reading.problems import Problems

DELETED = "Deleted account"
"""Who speaks where the export names nobody."""

_NUMBERED = re.compile(r"message_(\d+)\.json")
_MEDIA = ("photos", "videos", "audio_files", "gifs", "files", "sticker", "share", "media")
_SYSTEM_TYPES = ("Call", "Subscribe", "Unsubscribe", "Plan", "Payment")
_MILLISECOND = 1e-3

_REACTION = re.compile(r"(Reacted \S+ to your message|Liked a message)\.?")
# What the program writes after the name of the sender or "You". Who writes so of themselves is rare; "You called me."
# is not.
_REACTED = re.compile(r"(liked|reacted \S+ to) (a|your) message\.?")
_ATTACHED = re.compile(r"sent (an attachment|(a|\d+) (photo|video|link|sticker|GIF|voice message|live location)s?)\.")
_NOTICE = re.compile(
    r"((joined|started|ended|left) (the|a) ((video|audio) )?(chat|call)|called (?!me\b).*|missed (a|your) .*"
    r"|(created|left|named|(added|removed) .* (to|from)) the group.*|changed the (group photo|theme.*)"
    r"|set (the|your|his own|her own) .*(nickname|reaction|emoji) .*|(pinned|unpinned) a message"
    r"|turned (on|off) (vanish mode|disappearing messages).*)\."
)


def matches(path: Path) -> bool:
    """Tells whether this is an export of Messenger or Instagram: a file, the folder of a chat, or all of it."""
    numbered = candidates(path, rf"(.*/)?{_NUMBERED.pattern}")
    return any(_is_export(file) for file in numbered or candidates(path))


def read(path: Path, problems: Problems) -> Iterator[Chat]:
    """Reads the chats of an export; `message_1.json`, `message_2.json` ... of one folder become one chat.

    Raises:
        ConversationError: If the file cannot be read, or something in it is wrong and problems are errors.

    Example:
        >>> import json, tempfile
        >>> file = Path(tempfile.mkdtemp()) / "message_1.json"
        >>> message = {"sender_name": "Ren\u00c3\u00a9", "timestamp_ms": 1700000000000, "content": "Hi"}
        >>> _ = file.write_text(json.dumps({"participants": [], "title": "Us", "messages": [message]}))
        >>> [message.speaker for chat in read(file, Problems()) for message in chat.messages]
        ['René']
    """
    files = export_files(path, _is_export, "message_1.json of Messenger or Instagram: export the messages as JSON")
    files.sort(key=lambda found: _order(found[0]))
    for _, parts in groupby(json_values(path, files, problems), key=lambda found: _order(found[0])[0]):
        yield _chat([(file, value) for _, file, value in parts], problems)


def _is_export(file: Path) -> bool:
    keys = outline(file)
    sender = {"sender_name", "timestamp_ms"} <= keys[3] or {"senderName", "timestamp", "isUnsent"} <= keys[3]
    return "messages" in keys[1] and sender


def _order(name: str) -> tuple[str, int]:
    """Names the chat that a file is a part of, and the number of the part."""
    numbered = _NUMBERED.fullmatch(PurePosixPath(name).name)
    return (str(PurePosixPath(name).parent), int(numbered[1])) if numbered else (name, 0)


def _name(value: Any, file: Path) -> str:
    name = name_or(value, "title", "") or name_or(value, "threadName", "")
    return _repaired(name) or file.name


def _chat(parts: list[tuple[Path, Any]], problems: Problems) -> Chat:
    chat = Chat(_name(parts[0][1], parts[0][0]))
    for file, value in parts:
        add_list(chat, value, "messages", str(file), problems, _found)
    sort_by_time(chat)
    return chat


def _found(entry: Entry, place: str) -> Found:
    if "senderName" in entry:  # the newer form, whose texts are right
        sender, text = a_string(entry, "senderName"), a_string(entry, "text")
        time = unix_time(entry.get("timestamp"), "timestamp", _MILLISECOND)
    else:
        # White space may be half of a character until the text is repaired.
        sender = _repaired(checked_text(entry.get("sender_name"), "sender_name")).strip()
        text = _repaired(checked_text(entry.get("content", ""), "content")).strip()
        time = unix_time(entry.get("timestamp_ms"), "timestamp_ms", _MILLISECOND)
    reason = _left_out(entry, sender, text)
    return reason or Message(sender or DELETED, text, time, place)


def _left_out(entry: Entry, sender: str, text: str) -> str | None:
    """Tells why an entry is no message, if it is none."""
    says = _said_by(sender, text)
    if entry.get("is_unsent") is True or entry.get("isUnsent") is True:
        return "deleted message"
    if entry.get("type") in _SYSTEM_TYPES or "call_duration" in entry or _NOTICE.fullmatch(says):
        return "system message"
    if _REACTION.fullmatch(text) or _REACTED.fullmatch(says):
        return "reaction"
    if not text or _ATTACHED.fullmatch(says):
        return "media" if says or any(entry.get(key) for key in _MEDIA) else "empty message"
    return None


def _said_by(sender: str, text: str) -> str:
    """Returns what follows the sender's name or "You" at the beginning of a text, where a notice would stand."""
    for name in (sender, "You"):
        if name and text.startswith(f"{name} "):
            return text[len(name) + 1 :]
    return ""


def _repaired(text: str) -> str:
    """Returns text whose characters are the bytes of UTF-8, as these exports write it, as what it says."""
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text
