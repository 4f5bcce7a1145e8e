"""The shapes in which people keep conversations, and how each becomes one.

Owns: the names of the shapes, their keys, and recognising them. Knows Python values only, no files.
"""

import difflib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from convmodel.conversation import DEFAULT_SPEAKERS, Conversation
from convmodel.errors import ConversationError

AUTO = "auto"
"""The name that asks for the shape to be recognised."""

SHAPES = {
    "turns": 'a list of strings, or {"turns": [...]} with "speakers", "pinned", "id" if you like',
    "messages": '{"messages": [{"role": ..., "content": ...}, ...]}',
    "conversation": '{"conversation": [...]} or {"dialog": [...]}, of strings or messages (DailyDialog)',
    "sharegpt": '{"conversations": [{"from": "human", "value": ...}, ...]} (ShareGPT)',
    "personachat": '{"personality": [...], "history" or "utterances": [...], "candidates": [...]} (PersonaChat)',
    "pairs": '{"prompt": ..., "response": ...}, or instruction and output, or question and answer',
    "rows": '{"conversation_id": ..., "speaker": ..., "text": ...}, one message a row',
}
"""The recognised shapes: name and form, in the order in which they are tried."""

ROLES = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant"}
"""Other programs' names for who speaks."""

_SPEAKER = ("role", "from", "speaker", "sender", "author", "name", "user")
_TEXT = ("content", "value", "text", "message", "body", "utterance")
_TIME = ("timestamp", "time", "date", "created_at")
_GROUP = ("conversation_id", "dialog_id", "dialogue_id", "conv_id", "chat_id", "thread_id", "session_id")
_LISTS = ("conversation", "dialog", "dialogue")
_PAIRS = (
    ("prompt", "response"),
    ("prompt", "completion"),
    ("instruction", "output"),
    ("question", "answer"),
    ("input", "output"),
)
_KEYS = frozenset({"turns", "messages", "speakers", "pinned", "id", "started_at"})
_MISSPELT = 0.75


def shape_of(value: Any) -> str | None:
    """Names the shape of a value; None where none is recognised.

    Example:
        >>> shape_of({"conversations": [{"from": "human", "value": "Hi"}]})
        'sharegpt'
    """
    if not isinstance(value, Mapping) or "turns" in value:
        return "turns"
    tests: dict[str, Callable[[], bool]] = {
        "messages": lambda: "messages" in value,
        "personachat": lambda: "personality" in value and bool({"history", "utterances"} & value.keys()),
        "sharegpt": lambda: "conversations" in value,
        "conversation": lambda: any(isinstance(value.get(key), list | tuple) for key in _LISTS),
        "pairs": lambda: any(key in value and answer in value for key, answer in _PAIRS),
        "rows": lambda: group_key(value) is not None and bool(_first(value, _SPEAKER) and _first(value, _TEXT)),
    }
    return next((name for name, test in tests.items() if test()), None)


def is_message(value: Any) -> bool:
    """Tells whether a value is one message of a conversation, rather than a conversation."""
    return (
        isinstance(value, Mapping)
        and shape_of(value) is None
        and bool(_first(value, _SPEAKER) and _first(value, _TEXT))
    )


def group_key(value: Mapping[str, Any]) -> str | None:
    """Names the key that tells which conversation a row belongs to."""
    return _first(value, _GROUP)


def conversations_of(value: Any, shape: str = AUTO) -> list[Conversation]:
    """Makes the conversations of one value; there is more than one only where the value holds a list of them.

    Args:
        value: What a line of JSON, a row of a table or a caller gives.
        shape: One of `SHAPES`, or `auto`.

    Raises:
        ConversationError: If the value has not that shape, or its conversation cannot be.

    Example:
        >>> conversations_of({"prompt": "Hi", "response": "Hello"})[0].turns
        ('Hi', 'Hello')
    """
    found = shape_of(value)
    if found is None:
        keys = ", ".join(map(str, value)) or "no keys"
        forms = "; or ".join(SHAPES.values())
        raise ConversationError(f"neither turns nor messages in an object with {keys}: a conversation is {forms}")
    if shape not in (AUTO, found):
        raise ConversationError(f"this is of the shape {found}, not {shape}: leave --format out, or correct the line")
    if not isinstance(value, Mapping):
        return [_of_list(value)]
    if found == "sharegpt":
        return _of_conversations(value)
    if found == "rows":
        return [conversation_of_rows([value])]
    make = {
        "turns": _of_turns,
        "messages": _of_messages,
        "conversation": _of_conversation,
        "pairs": _of_pair,
        "personachat": _of_persona,
    }[found]
    return [_named(make(value), value)]


def conversation_of_rows(rows: Sequence[Mapping[str, Any]]) -> Conversation:
    """Makes one conversation of the rows that share a conversation id.

    Raises:
        ConversationError: If it cannot be one.

    Example:
        >>> rows = [{"conv_id": 7, "speaker": "Ann", "text": "Hi"}, {"conv_id": 7, "speaker": "Bob", "text": "Hello"}]
        >>> conversation_of_rows(rows).who
        ('Ann', 'Bob')
    """
    last = rows[-1]
    key = group_key(last)
    made = _of_persona(last) if shape_of(last) == "personachat" else _from_messages(rows)
    return replace(made, id=str(last[key])) if key and last[key] is not None else made


def read_time(value: Any) -> datetime | None:
    """Reads a time: ISO 8601, or seconds (or milliseconds) since 1970; UTC without a zone. None if it is neither.

    Example:
        >>> read_time("2018-05-02T19:38:15Z")
        datetime.datetime(2018, 5, 2, 19, 38, 15)
    """
    try:
        if isinstance(value, datetime):
            time = value
        elif isinstance(value, str):
            time = datetime.fromisoformat(value.strip())
        elif isinstance(value, int | float) and not isinstance(value, bool):
            time = datetime.fromtimestamp(value / 1000 if value > 1e11 else value, UTC)
        else:
            return None
        return time.astimezone(UTC).replace(tzinfo=None) if time.tzinfo else time
    except (ValueError, OverflowError, OSError):
        return None


def _first(value: Mapping[str, Any], keys: Sequence[str]) -> str | None:
    return next((key for key in keys if key in value), None)


def _named(conversation: Conversation, value: Mapping[str, Any]) -> Conversation:
    """Adds what any shape may carry: an id, and the time when it began."""
    name = _first(value, ("id", *_GROUP))
    if name and value[name] is not None:
        conversation = replace(conversation, id=str(value[name]))
    if value.get("started_at") is not None:
        time = read_time(value["started_at"])
        if time is None:
            raise ConversationError(f"started_at is {value['started_at']!r}: write a time such as 2024-01-31T21:41:00")
        conversation = replace(conversation, started_at=time)
    return conversation


def _of_list(value: Any) -> Conversation:
    if isinstance(value, list | tuple) and value and all(isinstance(turn, Mapping) for turn in value):
        return _from_messages(value)
    return Conversation.of(value)


def _of_turns(value: Mapping[str, Any]) -> Conversation:
    if "messages" in value:
        raise ConversationError("both turns and messages: a conversation is given once")
    _refuse_misspelt(value)
    pinned = value.get("pinned", 0)
    if not isinstance(pinned, int) or isinstance(pinned, bool):
        raise ConversationError(f"pinned is {pinned!r}, not a number of turns")
    return Conversation(value["turns"], value.get("speakers"), pinned=pinned)


def _of_messages(value: Mapping[str, Any]) -> Conversation:
    _refuse_misspelt(value)
    if not isinstance(value["messages"], list | tuple):
        raise ConversationError("messages are not a list")
    return _from_messages(value["messages"])


def _refuse_misspelt(value: Mapping[str, Any]) -> None:
    for key in value:
        for known in _KEYS - value.keys():
            if key not in _KEYS and difflib.SequenceMatcher(None, str(key).lower(), known).ratio() > _MISSPELT:
                raise ConversationError(f"{key} is no field: write {known}, if that is meant")


def _of_conversation(value: Mapping[str, Any]) -> Conversation:
    turns = next(value[key] for key in _LISTS if isinstance(value.get(key), list | tuple))
    speakers = value.get("speakers")
    if speakers is not None and not any(isinstance(turn, Mapping) for turn in turns):
        return Conversation(turns, speakers)
    return _of_list(turns)


def _of_conversations(value: Mapping[str, Any]) -> list[Conversation]:
    """ShareGPT's `conversations` are the messages of one conversation; in others they are several."""
    items = value["conversations"]
    if not isinstance(items, list | tuple):
        raise ConversationError("conversations are not a list")
    if items and all(isinstance(item, list | tuple) for item in items):
        return [_of_list(item) for item in items]
    conversation = _of_list(items)
    system = value.get("system")
    if isinstance(system, str) and system.strip() and not conversation.pinned:
        conversation = replace(
            conversation, turns=(system, *conversation.turns), speakers=("system", *conversation.who), pinned=1
        )
    return [_named(conversation, value)]


def _of_pair(value: Mapping[str, Any]) -> Conversation:
    asked, answered = next(pair for pair in _PAIRS if pair[0] in value and pair[1] in value)
    question = [value[asked]]
    if asked == "instruction" and isinstance(value.get("input"), str) and value["input"].strip():
        question.append(value["input"])
    if not all(isinstance(part, str) for part in question):
        if isinstance(value[asked], list | tuple):  # a prompt of messages, and one of the response
            response = value[answered]
            closing = response if isinstance(response, list | tuple) else [{"role": "assistant", "content": response}]
            return _from_messages([*value[asked], *closing])
        raise ConversationError(f"{asked} is {type(value[asked]).__name__}, not a string")
    turns, speakers, pinned = ["\n".join(question), value[answered]], list(DEFAULT_SPEAKERS), 0
    if isinstance(value.get("system"), str) and value["system"].strip():
        turns, speakers, pinned = [value["system"], *turns], ["system", *speakers], 1
    return Conversation(turns, speakers, pinned=pinned)


def _of_persona(value: Mapping[str, Any]) -> Conversation:
    """The persona is the last speaker's; the true response is the last candidate."""
    last = value
    if "utterances" in value:
        if not isinstance(value["utterances"], list | tuple) or not value["utterances"]:
            raise ConversationError("utterances are no list of histories")
        last = value["utterances"][-1]
    persona, history, candidates = (
        part.get(key) if isinstance(part, Mapping) else None
        for part, key in ((value, "personality"), (last, "history"), (last, "candidates"))
    )
    if not all(isinstance(part, list | tuple) for part in (persona, history)):
        raise ConversationError("personality and history are not lists of strings")
    said = [*history, *(candidates or [])[-1:]]  # type: ignore[misc]
    who = [DEFAULT_SPEAKERS[(len(said) - number) % 2] for number in range(len(said))]
    lines = [line for line in persona if isinstance(line, str)]  # type: ignore[union-attr]
    if not any(line.strip() for line in lines):
        return Conversation(said, who)
    return Conversation(["\n".join(lines), *said], ["persona", *who], pinned=1)


def _from_messages(messages: Sequence[Any]) -> Conversation:
    """Reads messages whatever their keys are called; a list among them is one speaker's messages in a row."""
    plain: list[dict[str, Any]] = []
    for number, message in enumerate(messages, 1):
        parts = message if isinstance(message, list | tuple) and message else [message]
        speakers, texts = [], []
        for part in parts:
            speaker, text = _message(part, number)
            speakers.append(speaker)
            texts.append(text)
        if all(speaker == speakers[0] for speaker in speakers) and len(texts) > 1:
            plain.append({"role": speakers[0], "content": "\n".join(map(str, texts))})
        else:
            plain += [{"role": speaker, "content": text} for speaker, text in zip(speakers, texts, strict=True)]
    conversation = Conversation.from_messages(plain)
    first = messages[0][0] if isinstance(messages[0], list | tuple) else messages[0]
    time = next((read_time(first[key]) for key in _TIME if key in first), None)
    return replace(conversation, started_at=time) if time else conversation


def _message(message: Any, number: int) -> tuple[Any, Any]:
    """Returns who speaks and what, still to be checked."""
    speaker = _first(message, _SPEAKER) if isinstance(message, Mapping) else None
    text = _first(message, _TEXT) if isinstance(message, Mapping) else None
    if speaker is None or text is None:
        raise ConversationError(f"message {number} needs a role and a content")
    who, said = message[speaker], message[text]
    if isinstance(said, list | tuple):
        others = [part for part in said if not (isinstance(part, Mapping) and isinstance(part.get("text"), str))]
        if others:
            raise ConversationError(f"message {number} holds more than text, which no language model can read")
        said = "\n".join(part["text"] for part in said)
    if isinstance(who, int) and speaker != "role" and not isinstance(who, bool):
        who = str(who)
    return (ROLES.get(who.lower(), who) if isinstance(who, str) else who), said
