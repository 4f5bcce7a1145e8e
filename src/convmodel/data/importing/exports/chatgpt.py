"""Conversations with an assistant, as ChatGPT and Claude export them: `conversations.json`.

Owns: the syntax of both exports.
"""

import re
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

from convmodel.data.importing.exports.archive import candidates, export_files, json_values, outline
from convmodel.data.importing.exports.json_fields import (
    Entry,
    Found,
    a_list,
    a_string,
    add_entries,
    add_list,
    an_object,
    checked_text,
    iso_time,
    name_or,
    unix_time,
)
from convmodel.data.importing.exports.messages import Chat, Message
from convmodel.data.reading.problems import Problems
from convmodel.errors import ConversationError

_FILE = r"(.*/)?conversations[^/]*\.json"
_TEXT_TYPES = {"text", "multimodal_text"}
_CLAUDE_SPEAKERS = {"human": "user", "assistant": "assistant"}
# Where a source was shown: private-use characters around its number, or lenticular brackets in older exports.
_CITATION = re.compile(
    "\ue200(?:file|nav)?(?:cite|list)\ue202[^\ue201]*\ue201|\u3010\\d+(?::\\d+)?\u2020[^\u3011]*\u3011"
)


def matches(path: Path) -> bool:
    """Tells whether this is an export of ChatGPT or Claude: `conversations.json`, its folder, or the zip."""
    return any(_is_export(file) for file in candidates(path, _FILE))


def read(path: Path, problems: Problems) -> Iterator[Chat]:
    """Reads the conversations of an export; of answers asked for again, the ones that are shown.

    Raises:
        ConversationError: If the file cannot be read, or something in it is wrong and problems are errors.

    Example:
        >>> import json, tempfile
        >>> file = Path(tempfile.mkdtemp()) / "conversations.json"
        >>> message = {"sender": "human", "text": "Hi", "created_at": "2024-05-01T12:30:00Z"}
        >>> _ = file.write_text(json.dumps([{"uuid": "1", "name": "Hi", "chat_messages": [message]}]))
        >>> [(message.speaker, message.text) for chat in read(file, Problems()) for message in chat.messages]
        [('user', 'Hi')]
    """
    files = export_files(path, _is_export, "conversations.json of ChatGPT or Claude: give the export as it was sent")
    for _, file, value in json_values(path, files, problems):
        if not isinstance(value, list):
            problems.add(f"{file}: {type(value).__name__} instead of a list of conversations: export it again")
            continue
        for number, conversation in enumerate(value, 1):
            place = f"{file}: conversation {number}"
            if isinstance(conversation, dict) and isinstance(conversation.get("mapping"), dict):
                yield _chatgpt_chat(conversation, place, problems)
            elif isinstance(conversation, dict) and "chat_messages" in conversation:
                yield _claude_chat(conversation, place, problems)
            else:
                problems.add(f"{place}: neither a mapping nor chat_messages: export it again, or skip bad data")


def _is_export(file: Path) -> bool:
    keys = outline(file)
    is_chatgpt = "mapping" in keys[2] and {"message", "parent"} <= keys[4]
    return is_chatgpt or {"uuid", "chat_messages"} <= keys[2]


def _chatgpt_chat(conversation: dict[str, Any], place: str, problems: Problems) -> Chat:
    nodes: dict[str, Any] = conversation["mapping"]
    shown = _shown(nodes, conversation.get("current_node"))
    places = {key: f"{place}: message {number}" for number, key in enumerate(nodes, 1)}
    order = dict.fromkeys([*shown, *nodes])
    # The root of a conversation holds no message.
    entries = [(places[key], nodes[key]) for key in order if not _is_root(nodes[key])]
    is_shown = {places[key] for key in shown}
    chat = Chat(name_or(conversation, "title", place), parted=False)
    add_entries(chat, entries, problems, lambda node, at: _chatgpt_found(node, at, at in is_shown))
    return chat


def _shown(nodes: dict[str, Any], last: Any) -> list[str]:
    """Returns the branch that is shown; it is followed from its last node up, or from the last of all."""
    key = last if isinstance(last, str) and last in nodes else next(reversed(nodes), None)
    branch: dict[str, None] = {}
    while isinstance(key, str) and key in nodes and key not in branch:
        branch[key] = None
        key = nodes[key].get("parent") if isinstance(nodes[key], dict) else None
    return list(reversed(branch))


def _is_root(node: Any) -> bool:
    return isinstance(node, dict) and node.get("message") is None


def _chatgpt_found(node: Entry, place: str, is_shown: bool) -> Found:
    entry = an_object(node["message"])
    content = an_object(entry.get("content"))
    role = a_string(an_object(entry.get("author")), "role")
    kind = a_string(content, "content_type")
    metadata = an_object(entry.get("metadata") or {})
    if not role or not kind:
        raise ConversationError("there is no author's role" if not role else "there is no content_type")
    time = None if entry.get("create_time") is None else _unix(entry["create_time"])
    text = _text(content) if kind in _TEXT_TYPES else ""
    if not is_shown:
        return "other branch"
    if role not in ("user", "assistant") or metadata.get("is_visually_hidden_from_conversation") is True:
        return "system message"
    # What the assistant writes to one of its tools is not said to the user.
    if kind not in _TEXT_TYPES or entry.get("recipient") not in (None, "all"):
        return "other content"
    if not text:
        is_media = any(isinstance(part, dict) for part in a_list(content, "parts"))
        return "media" if is_media else "empty message"
    return Message(role, text, time, place)


def _unix(value: Any) -> datetime:
    if isinstance(value, str):
        raise ConversationError("create_time is text, not a number")
    return unix_time(value, "create_time")


def _text(content: Entry) -> str:
    texts = []
    for part in a_list(content, "parts"):
        if isinstance(part, dict) and part.get("content_type") == "audio_transcription":
            texts.append(a_string(part, "text"))  # what was said aloud
        elif not isinstance(part, dict):
            texts.append(checked_text(part, "a part").strip())
    return _CITATION.sub("", "\n".join(filter(None, texts))).strip()


def _claude_chat(conversation: dict[str, Any], place: str, problems: Problems) -> Chat:
    chat = Chat(name_or(conversation, "name", place), parted=False)
    add_list(chat, conversation, "chat_messages", place, problems, _claude_found)
    return chat


def _claude_found(entry: Entry, place: str) -> Found:
    sender = a_string(entry, "sender")
    if sender not in _CLAUDE_SPEAKERS:
        raise ConversationError(f"sender is {sender[:40]!r}, neither human nor assistant")
    time = iso_time(entry.get("created_at"), "created_at")
    text = a_string(entry, "text")
    if not text:
        return "media" if a_list(entry, "files") or a_list(entry, "attachments") else "empty message"
    return Message(_CLAUDE_SPEAKERS[sender], text, time, place)
