"""Which responses are copies of the training data.

Owns: what a copy is, and finding copies in one reading of training data of any size.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

from convmodel.conversation import Conversation
from convmodel.evaluation.metric import Figure, ratio
from convmodel.evaluation.word_split import in_characters, ngrams, words

SHORTEST = 5
"""Responses of fewer words are no copies: everybody says `yes, I do`. Of Japanese and Chinese as many characters."""

LONG = 8
"""A run of so many words that a training turn has too is a copied part."""

LONG_CHARACTERS = 20
"""The same for Japanese and Chinese, in characters."""


@dataclass(frozen=True, slots=True)
class Copy:
    """What a response has from the training data.

    Attributes:
        kind: `whole` where a training turn says just that, `part` where they share a long run of words.
        said: The response.
        source: The first training turn that says it.
    """

    kind: Literal["whole", "part"]
    said: str
    source: str


def find_copies(responses: Sequence[str], training: Iterable[Conversation]) -> list[Copy | None]:
    """Tells of each response whether it is a copy.

    Only the responses are kept in memory. Case, punctuation and spaces do not matter.

    Example:
        >>> training = [Conversation(["Hi", "I have lived in Osaka since I was born."])]
        >>> [copy.kind for copy in find_copies(["i have lived in osaka since i was born"], training)]
        ['whole']
    """
    said = [words(response) for response in responses]
    wholes: dict[tuple[str, ...], str] = {}
    parts: dict[tuple[str, ...], str] = {}
    wanted = {tuple(each) for each in said if len(each) >= SHORTEST}
    runs = {run for each in said for run in ngrams(each, _long(each))}
    lengths = {len(run) for run in runs}
    for conversation in training:
        for turn in conversation.turns:
            found = words(turn)
            if tuple(found) in wanted:
                wholes.setdefault(tuple(found), turn)
            for run in (run for length in lengths for run in ngrams(found, length)):
                if run in runs:
                    parts.setdefault(run, turn)
    copies: list[Copy | None] = []
    for response, each in zip(responses, said, strict=True):
        whole = wholes.get(tuple(each))
        part = next((parts[run] for run in ngrams(each, _long(each)) if run in parts), None)
        if whole is not None:
            copies.append(Copy("whole", response, whole))
        else:
            copies.append(None if part is None else Copy("part", response, part))
    return copies


def _long(found: Sequence[str]) -> int:
    return LONG_CHARACTERS if in_characters(found) else LONG


def copy_figures(copies: Sequence[Copy | None], of: str = "responses", prefix: str = "") -> list[Figure]:
    """Makes the shares of copies, one row a response.

    Args:
        copies: What `find_copies` found.
        of: What the texts are.
        prefix: Goes before the figures' names.
    """
    one = [1] * len(copies)
    kinds = [copy.kind if copy else "" for copy in copies]
    whole = [kind == "whole" for kind in kinds]
    any_kind = [kind != "" for kind in kinds]
    label = f"{of} copied whole", f"{of} copied at least in part"
    return [
        ratio(f"{prefix}copied_whole", label[0], whole, one, better="lower", percent=True),
        ratio(f"{prefix}copied", label[1], any_kind, one, better="lower", percent=True),
    ]
