"""Lists of messages to conversations, whatever their keys are called.

Owns: the accepted names of a message's keys, roles and weights, and the forms of a time. Does not know which values
hold messages (`shapes.py`).
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from convmodel.conversation import Conversation
from convmodel.errors import ConversationError

ROLES = dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "model"), "assistant")
ROLES |= {"user": "user", "human": "user", "system": "system"}
"""Our names of roles, by the names that other programs use, in lower case."""

_SPEAKER = ("role", "from", "speaker", "sender", "author", "name", "user")
_TEXT = ("content", "value", "text", "message", "body", "utterance")
_TIME = ("timestamp", "time", "date", "created_at")
TEXT_PARTS = ("text", "input_text", "output_text")
"""The types of a content's parts that are text."""

_WEIGHT = ("weight", "train", "training")  # OpenAI's fine-tuning has the first, Axolotl the others
THOUGHTS = ("reasoning_content", "reasoning", "thinking")
"""Keys of a message with thoughts before its text, which no layout has a place for."""

_CELLS = {"": None, "true": True, "false": False}  # in tables of text
_SINCE_1970 = re.compile(r"\d{9,10}(\.\d+)?|\d{12,13}")


def nobody(names: Sequence[str], turns: Mapping[str, int]) -> str:
    """Explains that nobody has one of these names: who speaks, and what a name of a role is read as.

    Example:
        >>> nobody(["gpt"], {"user": 7, "assistant": 6})
        'nobody is called gpt; there are user (7), assistant (6); gpt is read as assistant'
    """
    speakers = sorted(turns.items(), key=lambda item: -item[1])
    listed = ", ".join(f"{name} ({count:,})" for name, count in speakers[:10]) + (", ..." if len(speakers) > 10 else "")
    read_as = [f"{name} is read as {ROLES[name.lower()]}" for name in names if ROLES.get(name.lower(), name) in turns]
    return "; ".join([f"nobody is called {' or '.join(names)}", f"there are {listed or 'no messages'}", *read_as])


def first_key(value: Mapping[str, Any], keys: Sequence[str]) -> str | None:
    """Returns the first of the keys that has a value, else the first that is present."""
    present = [key for key in keys if key in value]
    return next((key for key in present if value[key] is not None), present[0] if present else None)


def speaker_key(value: Mapping[str, Any]) -> str | None:
    """Returns the key that holds the speaker of a message."""
    return first_key(value, _SPEAKER)


def text_key(value: Mapping[str, Any]) -> str | None:
    """Returns the key that holds the text of a message."""
    return first_key(value, _TEXT)


def time_key(value: Mapping[str, Any]) -> str | None:
    """Returns the key that holds the time of a message."""
    return first_key(value, _TIME)


def has_message(value: Mapping[str, Any]) -> bool:
    """Returns whether an object has a speaker and a text."""
    return speaker_key(value) is not None and text_key(value) is not None


def conversation_of_messages(messages: Sequence[Any]) -> Conversation:
    """Converts messages to a conversation; a list among them holds consecutive messages of one speaker.

    A message may set the weight of its turn in training: `weight`, a number of at least 0, or `train` or `training`,
    true or false. `loss_on` still selects whose turns are supervised.

    Raises:
        ConversationError: If they do not form a conversation.
    """
    plain: list[dict[str, Any]] = []
    for number, message in enumerate(messages, 1):
        parts = _parts(message)
        normalized = [_plain(part, number) for part in parts]
        are_texts = all(isinstance(part["content"], str) for part in normalized)
        if len(normalized) > 1 and are_texts and len({str(part["role"]) for part in normalized}) == 1:
            plain.append(_joined(normalized, number))
        else:
            plain += normalized
    conversation = Conversation.from_messages(plain)
    omitted = [kind for message in messages for part in _parts(message) for kind in THOUGHTS if part.get(kind)]
    conversation = replace(conversation, omitted=tuple(omitted)) if omitted else conversation
    first = messages[0][0] if isinstance(messages[0], list | tuple) else messages[0]
    last = messages[-1][-1] if isinstance(messages[-1], list | tuple) else messages[-1]
    time = read_time(first.get(time_key(first)))
    if time and (end := read_time(last.get(time_key(last)))) and end < time:
        raise ConversationError("the last message is earlier than the first: sort them by time, oldest first")
    return replace(conversation, started_at=time) if time else conversation


def _parts(message: Any) -> Sequence[Any]:
    return message if isinstance(message, list | tuple) and message else [message]


def _plain(message: Any, number: int) -> dict[str, Any]:
    """Returns a message with our keys: role, content and weight, not yet validated."""
    speaker, text = (key(message) if isinstance(message, Mapping) else None for key in (speaker_key, text_key))
    for calls in ("tool_calls", "function_call"):
        if isinstance(message, Mapping) and message.get(calls):
            raise ConversationError(f"message {number} calls a tool ({calls}), which is not text: leave it out")
    if speaker is None or text is None:
        keys = f": it has {', '.join(map(str, message))[:100]}" if isinstance(message, Mapping) and message else ""
        raise ConversationError(f"message {number} needs a role and a content{keys}; see docs/data.md#shapes")
    name, content = message[speaker], message[text]
    if isinstance(content, list | tuple):
        parts = [_text_of(part) for part in content]
        if not all(isinstance(part, str) for part in parts):
            raise ConversationError(f"message {number} contains more than text, which no language model can read")
        content = "\n".join(parts)
    if isinstance(name, int) and speaker != "role" and not isinstance(name, bool):
        name = str(name)
    role = ROLES.get(name.lower(), name) if isinstance(name, str) else name
    return {"role": role, "content": content, "weight": _weight(message, number)}


def _text_of(part: Any) -> Any:
    """Returns the text of a part of a message; None for what nobody says, such as an image or a thought."""
    if isinstance(part, Mapping):
        return part.get("text") if part.get("type", "text") in TEXT_PARTS else None
    return part


def _weight(message: Mapping[str, Any], number: int) -> Any:
    """Returns the weight of a message, by default 1; `Conversation` rejects what is not a number."""
    weights = {key: _value(message[key]) for key in _WEIGHT if key in message}
    weights = {key: value for key, value in weights.items() if value is not None}
    if not weights:
        return 1
    if len(weights) > 1:
        raise ConversationError(f"message {number} has {' and '.join(weights)}: keep one of them")
    [(key, value)] = weights.items()
    if key == "weight":
        return value
    if not isinstance(value, bool):
        raise ConversationError(f"{key} of message {number} is {value!r}: write true or false, or a weight")
    return int(value)


def _value(cell: Any) -> Any:
    """Reads a number or boolean from text: in some tables every cell is text."""
    if not isinstance(cell, str):
        return cell
    try:
        return float(cell)
    except ValueError:
        return _CELLS.get(cell.strip().lower(), cell)


def _joined(parts: Sequence[Mapping[str, Any]], number: int) -> dict[str, Any]:
    weights = [part["weight"] for part in parts]
    if any(weight != weights[0] for weight in weights):
        listed = ", ".join(map(str, weights))
        raise ConversationError(
            f"message {number} is a list of messages, which become one turn, but their weights are {listed}: "
            "give them the same weight"
        )
    return {**parts[0], "content": "\n".join(part["content"] for part in parts)}


def read_time(value: Any) -> datetime | None:
    """Reads a time: ISO 8601, or (milli)seconds since 1970, as text too; UTC without a zone. None for anything else."""
    try:
        if isinstance(value, str) and _SINCE_1970.fullmatch(value.strip()):
            value = float(value)
        if isinstance(value, datetime):
            time = value
        elif isinstance(value, str):
            time = datetime.fromisoformat(value.strip())
        elif isinstance(value, int | float) and not isinstance(value, bool):
            time = datetime.fromtimestamp(value / 1000 if abs(value) > 1e11 else value, UTC)
        else:
            return None
        return time.astimezone(UTC).replace(tzinfo=None) if time.tzinfo else time
    except (ValueError, OverflowError, OSError):
        return None
