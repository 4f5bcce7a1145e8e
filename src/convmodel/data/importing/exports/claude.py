"""Conversations with Claude, as its data export has them in `conversations.json`.

Owns: the syntax of a message's blocks, attachments and parents, and the export's own sentences.
"""

import re
from datetime import datetime
from typing import Any

from convmodel.data.importing.exports.branches import shown_branch, shown_first
from convmodel.data.importing.exports.json_fields import (
    Entry,
    a_list,
    a_string,
    add_entries,
    an_object,
    checked_text,
    iso_time,
    list_in,
    name_or,
    placed,
)
from convmodel.data.importing.exports.messages import Chat, Message
from convmodel.data.reading.problems import Problems
from convmodel.errors import ConversationError

_SPEAKERS = {"human": "user", "assistant": "assistant"}
_PARENT = "parent_message_uuid"
# What the export writes into `text` where a block of `content` is not text.
_PLACEHOLDER = re.compile(
    r"```\n(?:This block is not supported on your current device yet\.|Viewing artifacts created via .*)\n```"
)


def claude_chat(conversation: Entry, place: str, problems: Problems) -> Chat:
    """Reads a conversation; of changed questions and regenerated answers, only those that are shown."""
    entries = dict(placed(place, list_in(conversation, "chat_messages", place, problems)))
    shown = _shown(entries, conversation.get("current_leaf_message_uuid"))
    chat = Chat(name_or(conversation, "name", place), parted=False)
    ordered = [(at, entries[at]) for at in shown_first(shown, entries)]
    is_shown = set(shown)
    add_entries(chat, ordered, problems, lambda entry, at: _message(entry, at, at in is_shown))
    return chat


def _shown(entries: dict[str, Any], leaf: Any) -> list[str]:
    """Returns the places of the messages that are shown: all, if the export does not record parents."""
    objects = {at: entry for at, entry in entries.items() if isinstance(entry, dict)}
    if not any(entry.get(_PARENT) for entry in objects.values()):
        return list(entries)
    places = {entry["uuid"]: at for at, entry in objects.items() if isinstance(entry.get("uuid"), str)}
    parents, before = {}, None
    for at, entry in objects.items():
        # A message without a parent follows the one before it.
        parent = entry.get(_PARENT) or before
        parents[at] = places.get(parent, parent) if isinstance(parent, str) else None
        before = at
    last = places.get(leaf) if isinstance(leaf, str) else None
    # The last of the newest, as `max` returns the first of equal ones.
    newest = max(reversed(objects), key=lambda at: _created(objects[at]))
    # What is no object must be reported, not counted as a branch.
    return shown_first(shown_branch(parents, last or newest), (at for at in entries if at not in objects))


def _created(entry: Entry) -> datetime:
    try:
        return iso_time(entry.get("created_at"), "created_at")
    except ConversationError:  # reported when the message is read
        return datetime.min


def _message(entry: Entry, place: str, is_shown: bool) -> Message | str:
    sender = a_string(entry, "sender")
    if sender not in _SPEAKERS:
        raise ConversationError(f"sender is {sender[:40]!r}, neither human nor assistant")
    time = iso_time(entry.get("created_at"), "created_at")
    blocks = [an_object(block) for block in a_list(entry, "content")]
    attached = [an_object(file) for file in a_list(entry, "attachments")]
    pasted = [a_string(file, "extracted_content") for file in attached]
    text = "\n".join(filter(None, [_text(blocks, a_string(entry, "text")), *pasted]))
    if not is_shown:
        return "other branch"
    if text:
        return Message(_SPEAKERS[sender], text, time, place)
    if attached or a_list(entry, "files"):
        return "media"
    is_other = any(a_string(block, "type") != "text" for block in blocks) or a_string(entry, "text")
    return "other content" if is_other else "empty message"


def _text(blocks: list[Entry], whole: str) -> str:
    """Joins the text among the blocks of a message; older exports have its `whole` text only."""
    texts: list[str] = []
    for block in blocks:
        if a_string(block, "type") != "text" or block.get("text") is None:
            continue
        text = checked_text(block["text"], "text")
        # A sentence with sources may be divided into several blocks.
        if texts and f"{texts[-1]}{text}" in whole:
            texts[-1] += text
        else:
            texts.append(text)
    if not any(map(str.strip, texts)) and all(a_string(block, "type") == "text" for block in blocks):
        texts = _PLACEHOLDER.split(whole)
    return "\n".join(filter(None, map(str.strip, texts)))
