"""Conversations to JSON Lines files, which training reads.

Owns: the written form of a conversation.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from convmodel.conversation import Conversation
from convmodel.files.json_lines import write_line


def to_record(conversation: Conversation) -> dict[str, Any]:
    """Returns a conversation as a JSON object, which `read_conversations` reads back unchanged."""
    record: dict[str, Any] = {} if conversation.id is None else {"id": conversation.id}
    record |= {"turns": list(conversation.turns), "speakers": list(conversation.turn_speakers)}
    if conversation.pinned:
        record["pinned"] = conversation.pinned
    if conversation.weights is not None:
        record["weights"] = list(conversation.weights)
    if conversation.started_at is not None:
        record["started_at"] = conversation.started_at.isoformat()
    return record


def write_jsonl(path: Path, conversations: Iterable[Conversation]) -> int:
    """Writes conversations, one per line, and returns their number."""
    number = 0
    with path.open("wb") as file:
        for conversation in conversations:
            number += 1
            write_line(file, to_record(conversation))
    return number
