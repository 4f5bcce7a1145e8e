"""Chats that Facebook Messenger and Instagram export as JSON, in their older and their newer (encrypted chats') form.

Owns: the syntax of `message_1.json`, and the repair of its texts.
"""

import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import timedelta
from difflib import SequenceMatcher
from functools import partial
from itertools import groupby, takewhile
from pathlib import PurePosixPath
from typing import Any

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
_ATTACHED = re.compile(
    r"sent (an attachment|(a|\d+) (photo|video|link|sticker|GIF|voice message|(live )?location)s?)\."
)
_NOTICE = re.compile(
    r"((joined|started|ended|left) (the|an?) ((video|audio) )?(chat|call)|called (?!me\b).*|missed (a|your) .*"
    r"|(created|left|named|(added|removed) .* (to|from)) the group.*|changed the (group photo|theme.*)"
    r"|set (the|your|his own|her own) .*(nickname|reaction|emoji) .*|(pinned|unpinned|unsent) a message"
    r"|(created a|voted .* in the|(changed|removed) (a|their) vote .* in the) poll.*"
    r"|turned (on|off) (vanish mode|disappearing messages).*|waved at .*)\.?"
)
# Sentences without a name.
_OWN = re.compile(
    r"((Video|Audio) (chat|call) ended|You are now connected on Messenger"
    r"|Say hi to your new (Facebook friend, .*|connection.*)|You can now (message and )?call each other .*"
    r"|Messages and calls are secured with end-to-end encryption.*"
    r"|This message is no longer available because it was unsent by the sender"
    r"|.+ wasn['\u2019]t notified about this message because .* quiet mode)\.?"
)
# Korean and Japanese add a title to the name.
_AFTER_NAME = re.compile(r"(?: |님|さん|[\u2019']s )")
# Words, symbols and more than one word.
_AROUND_EMOJI = re.compile(r"(\w[\w ]*) ([^\w\s.,:;!?'\"()-]+) (\w+ [\w ]*\w)\.?\s*")
_LINK = re.compile(r"https?://|www\.", re.IGNORECASE)

# Both versions of an edited message are in the export, and the later one ends so.
_EDITED = re.compile(
    r"(.*\S)\s*[(\uff08](?:edited|bearbeitet|editad[oa]|modifié|modificato|bewerkt|redigera[dt]|redigert|redigeret"
    r"|muokattu|edytowano|upraveno|изменено|отредактировано|düzenlendi|diedit|đã chỉnh sửa|수정됨|編集済み|已编辑"
    r"|已編輯)[)\uff09]",
    re.DOTALL,
)
_EDITABLE = timedelta(minutes=15)


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
        read_entry = partial(_message, recurring=_recurring(parts))
        for part in parts:
            add_list(chat, part.value, "messages", str(part.path), problems, read_entry)
        sort_by_time(chat)
        _join_versions(chat)
        yield chat


def _recurring(parts: list[JsonFile]) -> dict[str, str]:
    """Returns the texts that recur beside media or around an emoji, and so are the program's, with what they are about.

    `Hat mit X auf deine Nachricht reagiert` is written under several senders, with several emojis.
    """
    beside_media: Counter[str] = Counter()
    reactions: defaultdict[tuple[str, ...], set[tuple[str, str]]] = defaultdict(set)
    for entry in (entry for part in parts for entry in _entries(part.value)):
        text = _raw_text(entry)
        if _has_media(entry):
            beside_media[text] += 1
        elif not text.isascii() and (match := _AROUND_EMOJI.fullmatch(_repaired(text))):
            reactions[match[1], match[3]].add((name_or(entry, "sender_name", ""), text))
    recurring = {text: "media" for text, count in beside_media.items() if count > 1}
    for written in reactions.values():
        senders, texts = map(set, zip(*written, strict=True))
        if len(senders) > 1 and len(texts) > 1:
            recurring |= dict.fromkeys(texts, "reaction")
    return recurring


def _entries(value: Any) -> list[Entry]:
    messages = value.get("messages") if isinstance(value, dict) else None
    return [entry for entry in messages if isinstance(entry, dict)] if isinstance(messages, list) else []


def _raw_text(entry: Entry) -> str:
    return name_or(entry, "text" if "senderName" in entry else "content", "")


def _has_media(entry: Entry) -> bool:
    return any(entry.get(key) for key in _MEDIA)


def _join_versions(chat: Chat) -> None:
    """Replaces every message that was edited by its last version, and counts the earlier ones."""
    kept: list[Message] = []
    for message in chat.messages:
        match = _EDITED.fullmatch(message.text) if message.text.endswith((")", "\uff09")) else None
        edited = replace(message, text=match[1]) if match else message
        earlier = _earlier(kept, edited) if match else None
        if earlier is None:
            kept.append(edited)
        else:
            kept[earlier] = replace(kept[earlier], text=edited.text)
            chat.dropped["earlier version of an edited message"] += 1
    chat.messages = kept


def _earlier(messages: Sequence[Message], edited: Message) -> int | None:
    """Returns the position of the version before an edit: what its sender wrote that is most like it."""
    recent = takewhile(lambda index: _since(messages[index], edited) <= _EDITABLE, range(len(messages) - 1, -1, -1))
    own = [index for index in recent if messages[index].speaker == edited.speaker]
    return max(own, key=lambda index: SequenceMatcher(None, messages[index].text, edited.text).ratio(), default=None)


def _since(earlier: Message, later: Message) -> timedelta:
    assert earlier.time is not None
    assert later.time is not None
    return later.time - earlier.time


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


def _message(entry: Entry, place: str, recurring: Mapping[str, str]) -> Message | str:
    if "senderName" in entry:  # the newer form, whose text is valid
        sender, text = a_string(entry, "senderName"), a_string(entry, "text")
        time = unix_time(entry.get("timestamp"), "timestamp", _MILLISECOND)
    else:
        # White space may be half of a character until the text is repaired.
        sender = _repaired(checked_text(entry.get("sender_name"), "sender_name")).strip()
        text = _repaired(checked_text(entry.get("content", ""), "content")).strip()
        time = unix_time(entry.get("timestamp_ms"), "timestamp_ms", _MILLISECOND)
    about = recurring.get(_raw_text(entry))
    is_of_media = _has_media(entry) and (about == "media" or _is_only_shared(entry, text))
    reason = _left_out(entry, sender, "" if is_of_media else text) or (about if about == "reaction" else None)
    return reason or Message(sender or DELETED, text, time, place)


def _is_only_shared(entry: Entry, text: str) -> bool:
    """Returns whether the text beside a share is the program's ("Ann sent an attachment."), in any language.

    A link that somebody wrote is in the text too.
    """
    return bool(entry.get("share")) and not _LINK.search(text)


def _left_out(entry: Entry, sender: str, text: str) -> str | None:
    """Returns why an entry is left out; None if it is a message."""
    notices = [text.removeprefix(f"{name} ") for name in (sender, sender.partition(" ")[0], "You") if name]
    notices = [notice for notice in notices if notice != text]
    if entry.get("is_unsent") is True or entry.get("isUnsent") is True:
        return "deleted message"
    if entry.get("type") in _SYSTEM_TYPES or "call_duration" in entry:
        return "system message"
    if _OWN.fullmatch(text) or any(map(_NOTICE.fullmatch, notices)):
        return "system message"
    if _REACTION.fullmatch(text) or any(map(_REACTED.fullmatch, notices)):
        return "reaction"
    if not text or any(map(_ATTACHED.fullmatch, notices)):
        return "media" if notices or _has_media(entry) else "empty message"
    return "system message" if _is_about(sender, text) else None


def _is_about(sender: str, text: str) -> bool:
    """Returns whether a text begins with its sender's name, as notices of the program do in every language.

    People do not write so of themselves; where the name is a single word, which may mean something, only a statement
    that ends with a full stop is a notice.
    """
    if not sender or not text.startswith(sender) or not _AFTER_NAME.match(text, len(sender)):
        return False
    return " " in sender or text.endswith((".", "。"))


def _repaired(text: str) -> str:
    """Decodes text whose characters are the bytes of UTF-8, as these exports write it; other text is unchanged."""
    try:
        return text.encode("latin-1").decode("utf-8")
    except UnicodeError:
        return text
