"""Messages, whatever their keys are called, and the conversation that they are.

Owns: the names of a message's keys, of roles, and of weights. Which values hold messages is `shapes.py`'s.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from convmodel.conversation import Conversation
from convmodel.data.reading.times import read_time
from convmodel.errors import ConversationError

ROLES = dict.fromkeys(("assistant", "gpt", "chatgpt", "bot", "model"), "assistant")
ROLES |= {"user": "user", "human": "user", "system": "system"}
"""What the roles are called here, by other programs' names for them in lower case."""

_SPEAKER = ("role", "from", "speaker", "sender", "author", "name", "user")
_TEXT = ("content", "value", "text", "message", "body", "utterance")
_TIME = ("timestamp", "time", "date", "created_at")
_WEIGHT = ("weight", "train", "training")  # OpenAI's fine-tuning has the first, Axolotl the others
_CELLS = {"": None, "true": True, "false": False}  # tables of text have words for them


def first_key(value: Mapping[str, Any], keys: Sequence[str]) -> str | None:
    """Returns the first of the keys that has a value, or else the first that is there."""
    there = [key for key in keys if key in value]
    return next((key for key in there if value[key] is not None), there[0] if there else None)


def has_message(value: Mapping[str, Any]) -> bool:
    """Tells whether an object says who speaks and what."""
    return first_key(value, _SPEAKER) is not None and first_key(value, _TEXT) is not None


def conversation_of_messages(messages: Sequence[Any]) -> Conversation:
    """Makes a conversation of messages; a list among them is one speaker's messages in a row.

    A message may say how much its turn counts in training: `weight`, a number from 0 up, or `train` or `training`,
    true or false. `loss_on` still chooses whose turns are supervised.

    Raises:
        ConversationError: If it cannot be one.

    Example:
        >>> messages = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Go away", "weight": 0}]
        >>> conversation_of_messages(messages).weights
        (1.0, 0.0)
    """
    plain: list[dict[str, Any]] = []
    for number, message in enumerate(messages, 1):
        parts = message if isinstance(message, list | tuple) and message else [message]
        found = [_plain(part, number) for part in parts]
        are_texts = all(isinstance(part["content"], str) for part in found)
        if len(found) > 1 and are_texts and len({str(part["role"]) for part in found}) == 1:
            plain.append(_joined(found, number))
        else:
            plain += found
    conversation = Conversation.from_messages(plain)
    first = messages[0][0] if isinstance(messages[0], list | tuple) else messages[0]
    time = read_time(first.get(first_key(first, _TIME)))
    return replace(conversation, started_at=time) if time else conversation


def _plain(message: Any, number: int) -> dict[str, Any]:
    """Returns who speaks, what, and its weight, still to be checked."""
    speaker, text = (first_key(message, keys) if isinstance(message, Mapping) else None for keys in (_SPEAKER, _TEXT))
    if speaker is None or text is None:
        raise ConversationError(f"message {number} needs a role and a content")
    who, said = message[speaker], message[text]
    if isinstance(said, list | tuple):
        content: list[Any] = [part.get("text") if isinstance(part, Mapping) else part for part in said]
        if not all(isinstance(part, str) for part in content):
            raise ConversationError(f"message {number} holds more than text, which no language model can read")
        said = "\n".join(content)
    if isinstance(who, int) and speaker != "role" and not isinstance(who, bool):
        who = str(who)
    role = ROLES.get(who.lower(), who) if isinstance(who, str) else who
    return {"role": role, "content": said, "weight": _weight(message, number)}


def _weight(message: Mapping[str, Any], number: int) -> Any:
    """Returns what a message weighs, 1 where it does not say; what is no number is left to be refused."""
    said = {key: _value(message[key]) for key in _WEIGHT if key in message}
    said = {key: value for key, value in said.items() if value is not None}
    if not said:
        return 1
    if len(said) > 1:
        raise ConversationError(f"message {number} has {' and '.join(said)}: keep one of them")
    [(key, value)] = said.items()
    if key == "weight":
        return value
    if not isinstance(value, bool):
        raise ConversationError(f"{key} of message {number} is {value!r}: write true or false, or a weight")
    return int(value)


def _value(given: Any) -> Any:
    """Reads text as what it says, which is all that a table of text has."""
    if not isinstance(given, str):
        return given
    try:
        return float(given)
    except ValueError:
        return _CELLS.get(given.strip().lower(), given)


def _joined(parts: Sequence[Mapping[str, Any]], number: int) -> dict[str, Any]:
    weights = [part["weight"] for part in parts]
    if any(weight != weights[0] for weight in weights):
        found = ", ".join(map(str, weights))
        raise ConversationError(
            f"message {number} is a list of messages, which become one turn, but they weigh {found}: "
            "give them one weight"
        )
    return {**parts[0], "content": "\n".join(part["content"] for part in parts)}
