"""Conversations with an assistant, as ChatGPT, Claude and DeepSeek export them: `conversations.json`.

Owns: the syntax of ChatGPT's export, and which conversations are whose. The others are in `claude` and `deepseek`.
"""

import json
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

from convmodel.data.importing.exports.archive import JsonExport, JsonFile, Outline
from convmodel.data.importing.exports.branches import shown_branch, shown_first
from convmodel.data.importing.exports.claude import claude_chat
from convmodel.data.importing.exports.deepseek import deepseek_message
from convmodel.data.importing.exports.json_fields import (
    Entry,
    a_list,
    a_string,
    add_entries,
    an_object,
    checked_text,
    name_or,
    unix_time,
)
from convmodel.data.importing.exports.messages import Chat, Message
from convmodel.data.reading.problems import Problems
from convmodel.errors import ConversationError

_TEXT_TYPES = {"text", "multimodal_text"}
_HIDDEN = ("is_visually_hidden_from_conversation", "is_user_system_message")
# Marks for what the page shows in another way (sources, pictures, names, links): a kind and fields between
# private-use characters. Older exports have their sources in lenticular brackets. A long run of spaces is tried once,
# from its start.
_MARK = re.compile("(?<![ \\t])([ \\t]*)\ue200([^\ue200-\ue202\\s]*)(?:\ue202([^\ue200\ue201]*))?\ue201")
_SOURCE = re.compile("\u3010\\d+(?::\\d+)?\u2020[^\u3011]*\u3011")
_CUT_OFF = re.compile("(?<![ \\t])[ \\t]*\ue200\\S*")
_PRIVATE = re.compile("[\ue200-\ue20f]")


def _is_export(keys: Outline) -> bool:
    one, several = 1, 2  # a single conversation is how programs save it from the page
    is_chatgpt = any("mapping" in keys[depth] and {"message", "parent"} <= keys[depth + 2] for depth in (one, several))
    return is_chatgpt or any({"uuid", "chat_messages"} <= keys[depth] for depth in (one, several))


def _chats(files: Iterator[JsonFile], problems: Problems) -> Iterator[Chat]:
    """Reads the conversations of the files; of regenerated answers, only the ones that are shown."""
    for _, file, value in files:
        if isinstance(value, dict) and {"mapping", "chat_messages"} & value.keys():
            value = [value]
        if not isinstance(value, list):
            problems.add(f"{file}: {type(value).__name__} instead of a list of conversations: export it again")
            continue
        for number, conversation in enumerate(value, 1):
            place = f"{file}: conversation {number}"
            if isinstance(conversation, dict) and isinstance(conversation.get("mapping"), dict):
                yield _chatgpt_chat(conversation, place, problems)
            elif isinstance(conversation, dict) and "chat_messages" in conversation:
                yield claude_chat(conversation, place, problems)
            else:
                problems.add(f"{place}: neither a mapping nor chat_messages: export it again, or skip bad data")


EXPORT = JsonExport(
    _is_export,
    "conversations.json of ChatGPT, Claude or DeepSeek: give the export as it was sent",
    _chats,
    names=(r"(.*/)?conversations[^/]*\.json",),
)
matches, read = EXPORT.matches, EXPORT.read


def _chatgpt_chat(conversation: dict[str, Any], place: str, problems: Problems) -> Chat:
    nodes: dict[str, Any] = conversation["mapping"]
    parents = {key: node.get("parent") if isinstance(node, dict) else None for key, node in nodes.items()}
    shown = shown_branch(parents, conversation.get("current_node"))
    places = {key: f"{place}: message {number}" for number, key in enumerate(nodes, 1)}
    # The root of a conversation has no message.
    without_message = {key for key, node in nodes.items() if isinstance(node, dict) and node.get("message") is None}
    entries = [(places[key], nodes[key]) for key in shown_first(shown, nodes) if key not in without_message]
    is_shown = {places[key] for key in shown}
    chat = Chat(name_or(conversation, "title", place), parted=False)
    add_entries(chat, entries, problems, lambda node, at: _chatgpt_message(node, at, at in is_shown))
    return chat


def _chatgpt_message(node: Entry, place: str, is_shown: bool) -> Message | str:
    entry = an_object(node["message"])
    if "fragments" in entry:
        return deepseek_message(entry, place, is_shown)
    if isinstance(entry.get("content"), str):
        raise ConversationError("who wrote it is not recorded, as in older exports of DeepSeek (export it again)")
    content = an_object(entry.get("content"))
    role = a_string(an_object(entry.get("author")), "role")
    kind = a_string(content, "content_type")
    metadata = an_object(entry.get("metadata") or {})
    if not role or not kind:
        raise ConversationError("there is no author's role" if not role else "there is no content_type")
    created = entry.get("create_time")
    if isinstance(created, str):
        raise ConversationError("create_time is text, not a number")
    time = None if created is None else unix_time(created, "create_time")
    text = _text(content) if kind in _TEXT_TYPES else ""
    if not is_shown:
        return "other branch"
    is_hidden = any(metadata.get(key) is True for key in _HIDDEN) or entry.get("weight") == 0
    if role not in ("user", "assistant") or is_hidden:
        return "system message"
    # Neither messages to one of the assistant's tools nor its thoughts are shown to the user.
    if kind not in _TEXT_TYPES or entry.get("recipient") not in (None, "all") or entry.get("channel") == "analysis":
        return "other content"
    if not text:
        is_media = any(isinstance(part, dict) for part in a_list(content, "parts"))
        return "media" if is_media else "empty message"
    return Message(role, text, time, place)


def _text(content: Entry) -> str:
    texts = []
    for part in a_list(content, "parts"):
        if isinstance(part, dict) and part.get("content_type") == "audio_transcription":
            texts.append(a_string(part, "text"))  # of speech
        elif not isinstance(part, dict):
            texts.append(checked_text(part, "a part").strip())
    return _without_marks("\n".join(filter(None, texts)))


def _without_marks(text: str) -> str:
    """Returns a text with what its marks show, where that is text."""
    if _PRIVATE.search(text):
        text = _PRIVATE.sub("", _CUT_OFF.sub("", _MARK.sub(_shown, text)))
    end = text.rfind("\u3011") + 1  # below it no source is closed, and each would be searched for its end
    return (_SOURCE.sub("", text[:end]) + text[end:]).strip()


def _shown(mark: re.Match[str]) -> str:
    """Returns the text that a mark shows: the label of a link, the name of a person or place."""
    space, kind, fields = mark[1], mark[2], (mark[3] or "").split("\ue202")
    if kind == "url":
        return space + fields[0]
    if kind == "entity":
        with suppress(ValueError, RecursionError):
            entity = json.loads(mark[3] or "")
            if isinstance(entity, list) and len(entity) > 1 and isinstance(entity[1], str):
                return space + entity[1]
    return ""
