"""Conversations that branch: where a question was changed or an answer regenerated, only one branch is shown.

Owns: which messages of such a conversation are read. Knows no format.
"""

from collections.abc import Iterable, Mapping
from typing import Any


def shown_branch(parents: Mapping[str, Any], last: Any) -> list[str]:
    """Returns the messages of the branch that ends at `last`, or at the last message of all, from its beginning.

    `parents` has the parent of every message; a parent that is not a message itself is where the branch begins.

    Example:
        >>> shown_branch({"question": None, "first answer": "question", "second answer": "question"}, "first answer")
        ['question', 'first answer']
    """
    key = last if isinstance(last, str) and last in parents else next(reversed(list(parents)), None)
    branch: dict[str, None] = {}
    while isinstance(key, str) and key in parents and key not in branch:
        branch[key] = None
        key = parents[key]
    return list(reversed(branch))


def shown_first(shown: Iterable[str], keys: Iterable[str]) -> list[str]:
    """Orders the messages: those of the shown branch, then all others."""
    return list(dict.fromkeys([*shown, *keys]))
