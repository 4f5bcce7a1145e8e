"""Conversations from files and Python objects, each error with its place.

Owns: the shapes that are read. Knows no tokens.
"""

import difflib
import errno
import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from convmodel.conversation import Conversation, ConversationLike
from convmodel.errors import ConversationError

ConversationSource: TypeAlias = str | os.PathLike[str] | Iterable[ConversationLike | Mapping[str, Any]]
"""A JSONL file, or conversations as Python objects."""

SHAPES = (
    'a list of strings, {"turns": [...]} with "speakers" if you like, '
    'or {"messages": [{"role": ..., "content": ...}, ...]}'
)


def read_conversations(source: ConversationSource) -> list[Conversation]:
    """Reads conversations from a JSONL file or from Python objects.

    Each line, or object, is a list of strings; an object with `turns` and maybe `speakers`, `pinned` and `id`; or an
    object with role/content `messages`.

    Other keys (a date, a topic) are left alone, unless they look like one of these misspelt.

    Raises:
        ConversationError: If there is no file, no conversation, or one is malformed; the message begins with
            `file:line:` (and the column, where the line is not JSON) or the conversation's number.

    Example:
        >>> [conversation.turns for conversation in read_conversations([["Hi", "Hello"]])]
        [('Hi', 'Hello')]
    """
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        conversations = list(_read_file(path))
        if not conversations:
            raise ConversationError(f"{path} holds no conversation: write one a line, each {SHAPES}")
        return conversations
    if not isinstance(source, Iterable) or isinstance(source, Mapping | Conversation):
        raise ConversationError(f"conversations are a file or a list of conversations, not {type(source).__name__}")
    conversations = [_place(f"conversation {number}", item) for number, item in enumerate(source, 1)]
    if not conversations:
        raise ConversationError("the list of conversations is empty")
    return conversations


_KEYS = frozenset({"turns", "messages", "speakers", "pinned", "id"})
_MISSPELT = 0.75


def _read_file(path: Path) -> Iterator[Conversation]:
    try:
        lines = path.open("rb")
    except OSError as error:
        if isinstance(error, FileNotFoundError | IsADirectoryError) or error.errno == errno.ENAMETOOLONG:
            raise ConversationError(f"there is no file {str(path)[:200]}") from error
        raise ConversationError(f"{path} cannot be read: {error.strerror}") from error
    with lines:
        for number, line in enumerate(lines, 1):
            place = f"{path}:{number}"
            try:
                text = line.decode("utf-8-sig" if number == 1 else "utf-8")
                if text.strip():
                    conversation = _place(place, json.loads(text.rstrip()))
                    yield conversation if conversation.id else replace(conversation, id=place)
            except UnicodeDecodeError as error:
                column = len(line[: error.start].decode()) + 1
                raise ConversationError(f"{place}:{column}: not UTF-8: save the file as UTF-8") from error
            except json.JSONDecodeError as error:
                raise ConversationError(
                    f"{place}:{error.colno}: not JSON ({error.msg}): write one conversation a line, each {SHAPES}"
                ) from error
            except ConversationError:
                raise
            except ValueError as error:
                raise ConversationError(f"{place}: {error}") from error
            except RecursionError as error:
                raise ConversationError(f"{place}: nested too deeply to be a conversation") from error


def _place(place: str, item: Any) -> Conversation:
    """Makes a conversation of a line or an object, and names its place if it cannot be one."""
    try:
        return _conversation(item)
    except ConversationError as error:
        raise ConversationError(f"{place}: {error}") from error


def _conversation(item: Any) -> Conversation:
    if not isinstance(item, Mapping):
        return Conversation.of(item)
    name = str(item["id"]) if item.get("id") is not None else None
    if "messages" in item and "turns" in item:
        raise ConversationError("both turns and messages: a conversation is given once")
    for key in item:
        for known in _KEYS - item.keys():
            if key not in _KEYS and difflib.SequenceMatcher(None, str(key).lower(), known).ratio() > _MISSPELT:
                raise ConversationError(f"{key} is no field: write {known}, if that is meant")
    if "messages" in item:
        if not isinstance(item["messages"], list | tuple):
            raise ConversationError("messages are not a list")
        return Conversation.from_messages(item["messages"], id=name)
    if "turns" in item:
        pinned = item.get("pinned", 0)
        if not isinstance(pinned, int) or isinstance(pinned, bool):
            raise ConversationError(f"pinned is {pinned!r}, not a number of turns")
        return Conversation(item["turns"], item.get("speakers"), pinned=pinned, id=name)
    raise ConversationError(
        f"neither turns nor messages in an object with {', '.join(map(str, item)) or 'no keys'}: "
        f"a conversation is {SHAPES}"
    )
