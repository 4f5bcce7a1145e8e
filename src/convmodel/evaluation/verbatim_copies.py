"""Responses that are copies of the training data.

Owns: what a copy is, and finding copies in one pass over training data of any size.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from convmodel.conversation import Conversation
from convmodel.evaluation.metric import Metric, Ratio, Topic
from convmodel.evaluation.word_split import is_unspaced, ngrams, words

SHORTEST = 5
"""Responses of fewer words, such as `yes, I do`, are not copies; in Japanese and Chinese, of fewer characters."""

LONG = 8
"""The number of consecutive words in common with a training turn that count as a copied part."""

LONG_CHARACTERS = 20
"""The same for Japanese and Chinese, in characters."""


@dataclass(frozen=True, slots=True)
class Copy:
    """A response that equals a training turn (`whole`) or shares a long run of words with it (`part`)."""

    kind: Literal["whole", "part"]
    response: str
    source: str  # the first such training turn


def find_copies(responses: Sequence[str], training: Iterable[Conversation]) -> list[Copy | None]:
    """Finds for each response the training turn that it copies, if there is one.

    Only the responses are kept in memory. Case, punctuation and spaces do not matter.

    Example:
        >>> training = [Conversation(["Hi", "I have lived in Osaka since I was born."])]
        >>> [copy.kind for copy in find_copies(["i have lived in osaka since i was born"], training)]
        ['whole']
    """
    split = [tuple(words(response)) for response in responses]
    whole_sources: dict[tuple[str, ...], str] = {}
    part_sources: dict[tuple[str, ...], str] = {}
    wholes = {response for response in split if len(response) >= SHORTEST}
    parts = {run for response in split for run in _long_runs(response)}
    lengths = {len(run) for run in parts}
    for conversation in training:
        for turn in conversation.turns:
            turn_words = tuple(words(turn))
            if turn_words in wholes:
                whole_sources.setdefault(turn_words, turn)
            for run in (run for length in lengths for run in ngrams(turn_words, length)):
                if run in parts:
                    part_sources.setdefault(run, turn)
    copies: list[Copy | None] = []
    for response, response_words in zip(responses, split, strict=True):
        part = next((part_sources[run] for run in _long_runs(response_words) if run in part_sources), None)
        if response_words in whole_sources:
            copies.append(Copy("whole", response, whole_sources[response_words]))
        else:
            copies.append(None if part is None else Copy("part", response, part))
    return copies


def _long_runs(response: Sequence[str]) -> list[tuple[str, ...]]:
    return ngrams(response, LONG_CHARACTERS if is_unspaced(response) else LONG)


# fmt: off
RESPONSE_COPIES: tuple[Ratio[Copy | None], ...] = (
    Ratio(name="copied_whole", label="responses copied whole", topic=Topic.COPIES, better="lower", percent=True,
        explanation="responses that equal a turn of the training data",
        above=lambda copy: copy is not None and copy.kind == "whole"),
    Ratio(name="copied", label="responses copied at least in part", topic=Topic.COPIES, better="lower", percent=True,
        explanation="the same, and responses that share a long run of words with the training data",
        above=lambda copy: copy is not None),
)
# fmt: on

REFERENCE_COPIES = tuple(
    replace(
        definition,
        name=f"references_{definition.name}",
        label=definition.label.replace("responses", "references"),
        explanation="the same for the references, for comparison",
        better="neither",
    )
    for definition in RESPONSE_COPIES
)
"""The same of the data, which no model can make better or worse."""


def copy_metrics(
    copies: Sequence[Copy | None], definitions: Sequence[Ratio[Copy | None]] = RESPONSE_COPIES
) -> list[Metric]:
    """Measures the shares of copies among what `find_copies` returned, with one row per text."""
    rows = [[copy] for copy in copies]
    return [definition.measure(rows) for definition in definitions]
