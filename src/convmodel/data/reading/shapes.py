"""The shapes of data that hold conversations, and how each is converted.

Owns: the names of the shapes, their keys, and how they are recognised. Knows Python values only, no files. The keys of
one message are in `messages.py`.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from convmodel.conversation import DEFAULT_SPEAKERS, Conversation
from convmodel.data.reading.fields import full_text, has_details, with_system
from convmodel.data.reading.judged_forms import FORM, form_of, judged_row
from convmodel.data.reading.messages import (
    conversation_of_messages,
    first_key,
    has_message,
    read_time,
    speaker_key,
    text_key,
)
from convmodel.errors import ConversationError

AUTO = "auto"
"""The name of no shape in particular: it is detected."""

SHAPES = {
    "turns": 'a list of strings, or {"turns": [...]} with "speakers", "pinned", "weights", "id" if you like',
    "messages": '{"messages": [{"role": ..., "content": ...}, ...]}',
    "conversation": '{"conversation": [...]} or {"dialog": [...]}, of strings or messages (DailyDialog)',
    "sharegpt": '{"conversations": [{"from": "human", "value": ...}, ...]} (ShareGPT)',
    "personachat": '{"personality": [...], "history" or "utterances": [...], "candidates": [...]} (PersonaChat)',
    "judgements": f"{FORM}, or as other programs write them (see docs/data.md#judgements)",
    "pairs": '{"prompt": ..., "response": ...}, or instruction and output, or question and answer',
    "rows": '{"conversation_id": ..., "speaker": ..., "text": ...}, one message a row',
}
"""The known shapes: name and form, in the order in which they are tried."""

_GROUP = ("conversation_id", "dialog_id", "dialogue_id", "conv_id", "chat_id", "thread_id", "session_id")
_FIELDS = ("speakers", "pinned", "started_at")
_LISTS = ("conversation", "dialog", "dialogue")
_PAIRS = [("prompt", "response"), ("prompt", "completion"), ("question", "answer")]
_PAIRS += [("instruction", "output"), ("instruction", "response"), ("input", "output")]

_TESTS: dict[str, Callable[[Mapping[str, Any]], bool]] = {
    "turns": lambda value: isinstance(value.get("turns"), list | tuple),
    "messages": lambda value: "messages" in value,
    "personachat": lambda value: "personality" in value and ("history" in value or "utterances" in value),
    "sharegpt": lambda value: "conversations" in value,
    "conversation": lambda value: any(isinstance(value.get(key), list | tuple) for key in _LISTS),
    "judgements": lambda value: form_of(value) is not None,
    "pairs": lambda value: (
        any(prompt in value and response in value for prompt, response in _PAIRS) and form_of(value) is None
    ),
    "rows": lambda value: group_key(value) is not None and has_message(value),
}


def shape_of(value: Any, wanted: str = AUTO) -> str | None:
    """Returns the shape of a value, the requested one if several fit; None if none does."""
    return _recognised(value, wanted)[0]


def _recognised(value: Any, wanted: str) -> tuple[str | None, Any]:
    """Returns the shape and the value, without its nulls unless only they determine the shape."""
    if not isinstance(value, Mapping):
        messages = isinstance(value, list | tuple) and value and all(isinstance(turn, Mapping) for turn in value)
        return ("messages" if messages and wanted != "turns" else "turns"), value
    # In a table every row has all columns; those without a value mean nothing.
    for part in ({key: item for key, item in value.items() if item is not None}, value):
        shapes = [name for name, test in _TESTS.items() if test(part)]
        # Other data has a number of turns there; on its own it is a mistake.
        if "turns" in part and "turns" not in shapes:
            shapes.append("turns")
        if shapes:
            return (wanted if wanted in shapes else shapes[0]), part
    return None, value


def is_message(value: Any) -> bool:
    """Returns whether a value is one message of a conversation, rather than a conversation."""
    return isinstance(value, Mapping) and shape_of(value) is None and has_message(value)


def group_key(value: Mapping[str, Any]) -> str | None:
    """Returns the key that holds the id of the conversation that a row belongs to."""
    return first_key(value, _GROUP)


def conversations_of(value: Any, shape: str = AUTO) -> list[Conversation]:
    """Converts a value of one of `SHAPES` to conversations; to several only if it holds a list of them.

    Raises:
        ConversationError: If the value does not have the shape, or its conversation is invalid.
    """
    recognised, value = _recognised(value, shape)
    if recognised is None:
        raise ConversationError(_unknown(value))
    if shape not in (AUTO, recognised):
        raise ConversationError(
            f"this is of the shape {recognised}, not {shape}: leave --format out, or correct the line"
        )
    if not isinstance(value, Mapping):
        return [_of_list(value)]
    if recognised == "rows":
        return [conversation_of_rows([value])]
    items = value.get("conversations") if recognised == "sharegpt" else None
    # In ShareGPT these are the messages of one conversation, in ChatterBot several conversations.
    if isinstance(items, list | tuple) and all(isinstance(item, list | tuple) for item in items):
        return [_of_list(item) for item in items]
    conversation = {
        "turns": _of_turns,
        "messages": _of_messages,
        "conversation": _of_conversation,
        "sharegpt": lambda value: _of_list(value["conversations"]),
        "judgements": lambda value: judged_row(value).conversation(),
        "pairs": _of_pair,
        "personachat": _of_persona,
    }[recognised](value)
    if recognised not in ("turns", "personachat", "judgements"):
        conversation = with_system(conversation, value)
    return [_named(conversation, value)]


def _unknown(value: Mapping[str, Any]) -> str:
    """Explains why an object has none of the shapes: what the nearest one lacks, and the usual forms."""
    keys = ", ".join([str(key)[:40] for key in value][:8]) or "no keys"
    start = f"neither turns nor messages in an object with {keys}"
    parts = {"speaker": speaker_key(value), "text": text_key(value)}
    present = " and ".join(f"{part} ({key})" for part, key in parts.items() if key)
    missing = " and ".join(["conversation id", *(part for part, key in parts.items() if not key)])
    if not present:
        return f"{start}: write {SHAPES['messages']} or {SHAPES['rows']}; see docs/data.md#shapes"
    columns = "convmodel import --columns conversation=NAME,speaker=NAME,text=NAME"
    return f"{start}: it has {present}, but no {missing}: add it, or name the columns ({columns})"


def conversation_of_rows(rows: Sequence[Mapping[str, Any]]) -> Conversation:
    """Converts the rows that share a conversation id to one conversation.

    Raises:
        ConversationError: If they do not form one.
    """
    last = rows[-1]
    key = group_key(last)
    if shape_of(last) == "personachat":
        conversation = _of_persona(last if "utterances" in last else _longest(rows))
    elif key is None or last[key] in (None, ""):
        raise ConversationError(f"{key} is empty: write the id of the row's conversation")
    else:
        conversation = conversation_of_messages(rows)
    return replace(conversation, id=str(last[key])) if key and last[key] is not None else conversation


def _named(conversation: Conversation, value: Mapping[str, Any]) -> Conversation:
    """Adds what any shape may have: an id and a start time."""
    if (name := first_key(value, ("id", *_GROUP))) and value[name] is not None:
        conversation = replace(conversation, id=str(value[name]))
    if value.get("started_at") is not None:
        time = read_time(value["started_at"])
        if time is None:
            text = str(value["started_at"])[:40]
            raise ConversationError(f"started_at is {text!r}: write a time such as 2024-01-31T21:41:00")
        conversation = replace(conversation, started_at=time)
    return conversation


def _of_list(value: Any) -> Conversation:
    if isinstance(value, list | tuple) and value and all(isinstance(turn, Mapping) for turn in value):
        return conversation_of_messages(value)
    return Conversation.of(value)


def _of_turns(value: Mapping[str, Any]) -> Conversation:
    if "messages" in value:
        raise ConversationError("both turns and messages: keep one of them")
    _reject_misspelt(value, (*_FIELDS, "weights"))
    pinned = value.get("pinned", 0)
    if not isinstance(pinned, int) or isinstance(pinned, bool):
        raise ConversationError(f"pinned is {pinned!r}, not a number of turns")
    return Conversation(value["turns"], value.get("speakers"), pinned=pinned, weights=value.get("weights"))


def _of_messages(value: Mapping[str, Any]) -> Conversation:
    _reject_misspelt(value, _FIELDS)
    if not isinstance(value["messages"], list | tuple):
        raise ConversationError("messages are not a list")
    return conversation_of_messages(value["messages"])


def _reject_misspelt(value: Mapping[str, Any], fields: tuple[str, ...]) -> None:
    for key in value:
        if (meant := _meant(str(key), fields)) and meant not in value:
            raise ConversationError(f"{key} is not a field: did you mean {meant}?")


@lru_cache(maxsize=1024)  # the keys are the same in every row
def _meant(key: str, fields: tuple[str, ...]) -> str | None:
    alike = (name for name in fields if difflib.SequenceMatcher(None, key.lower(), name).ratio() > 0.75)
    return None if key in fields or len(key) > 20 else next(alike, None)


def _of_conversation(value: Mapping[str, Any]) -> Conversation:
    turns = next(value[key] for key in _LISTS if isinstance(value.get(key), list | tuple))
    conversation = Conversation(turns, value["speakers"]) if value.get("speakers") is not None else _of_list(turns)
    return conversation if value.get("weights") is None else replace(conversation, weights=value["weights"])


def _of_pair(value: Mapping[str, Any]) -> Conversation:
    pair = next(pair for pair in _PAIRS if pair[0] in value and pair[1] in value)
    messages: list[Any] = _earlier(value.get("history"))
    for role, key in zip(DEFAULT_SPEAKERS, pair, strict=True):
        if isinstance(value[key], list | tuple) and value[key] and not has_details(value, key):
            messages += value[key]
        else:
            messages.append({"role": role, "content": full_text(value, key)})
    return conversation_of_messages(messages)


def _earlier(history: Any) -> list[dict[str, Any]]:
    """Reads the turns before a pair, which some data has as a list of pairs."""
    if history is None:
        return []
    if not isinstance(history, list | tuple) or any(not isinstance(pair, list | tuple) for pair in history):
        raise ConversationError("the history is not a list of pairs of turns")
    speakers = zip(DEFAULT_SPEAKERS * len(history), [turn for pair in history for turn in pair], strict=True)
    return [{"role": role, "content": turn} for role, turn in speakers]


def _of_persona(value: Mapping[str, Any]) -> Conversation:
    """Reads PersonaChat: the persona is the last speaker's, the true response is the last candidate."""
    parts = value.get("utterances")
    if parts is not None and not (isinstance(parts, list | tuple) and parts):
        raise ConversationError("utterances are not a list of histories")
    last = parts[-1] if parts else value
    persona, history = value["personality"], _history(last)
    candidates = last.get("candidates") or []
    are_lists = isinstance(candidates, list | tuple) and isinstance(persona, list | tuple)
    if not are_lists or not all(isinstance(line, str) for line in persona):
        raise ConversationError("personality and candidates are not lists of strings")
    turns = [*history, *candidates[-1:]]
    speakers = [DEFAULT_SPEAKERS[(len(turns) - number) % 2] for number in range(len(turns))]
    if not any(line.strip() for line in persona):
        return Conversation(turns, speakers)
    return Conversation(["\n".join(persona), *turns], ["persona", *speakers], pinned=1)


def _history(value: Any) -> list[Any]:
    history = value.get("history") if isinstance(value, Mapping) else None
    if not isinstance(history, list | tuple):
        raise ConversationError("the history is not a list of strings")
    return list(history)


def _longest(rows: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """Returns the row with the longest history; the other rows have a beginning of it."""
    longest = max(rows, key=lambda row: len(_history(row)))
    if any((part := _history(row)) != _history(longest)[: len(part)] for row in rows):
        raise ConversationError("its rows are not one conversation: each history must begin as the longest does")
    return longest
