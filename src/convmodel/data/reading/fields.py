"""Fields of a row that belong to its conversation, though they are not among its messages.

Owns: the names of a system message's field, of a prompt's, and of what belongs to a prompt. Does not know which shape a
row has (`shapes.py`, `judged_forms.py`).
"""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from convmodel.conversation import Conversation
from convmodel.errors import ConversationError

_DETAILS = ("input", "context")  # Alpaca's, and that of questions about a text


def with_system(conversation: Conversation, value: Mapping[str, Any]) -> Conversation:
    """Adds a system message from a field of its own, unless one is among the messages.

    Example:
        >>> with_system(Conversation(["Hi"]), {"system": "Be kind."}).turns
        ('Be kind.', 'Hi')
    """
    system = value.get("system") or value.get("system_prompt")
    if not isinstance(system, str) or not system.strip() or conversation.pinned:
        return conversation
    return replace(
        conversation,
        turns=(system, *conversation.turns),
        speakers=("system", *conversation.turn_speakers),
        pinned=1,
        weights=(1, *conversation.turn_weights),
    )


def has_details(value: Mapping[str, Any], key: str) -> bool:
    """Returns whether a row has a text beside its prompt that belongs to it."""
    return bool(_details(value, key))


def full_text(value: Mapping[str, Any], key: str) -> str:
    r"""Returns the text of a prompt or response, with what belongs to it on the following lines.

    Raises:
        ConversationError: If they are not texts.

    Example:
        >>> full_text({"instruction": "Add them.", "input": "1, 2"}, "instruction")
        'Add them.\n1, 2'
    """
    parts = [value[key], *_details(value, key)]
    if not all(isinstance(part, str) for part in parts):
        names = " and ".join([key, *["input"] * (len(parts) - 1)])
        raise ConversationError(f"{names}: neither text nor a list of messages")
    return "\n".join(parts)


def _details(value: Mapping[str, Any], key: str) -> list[Any]:
    if key not in ("instruction", "question"):
        return []
    return [value[other] for other in _DETAILS if str(value.get(other) or "").strip()]
