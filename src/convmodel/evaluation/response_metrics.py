"""What generated responses are like: near to what people said, varied, repeated, too long, empty.

Owns: these figures. Where responses come from is not its matter; overlap by sacrebleu is `overlap.py`'s, copies of the
training data are `copies.py`'s. `docs/evaluation.md` has the formulas and their sources.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from convmodel.conversation import Conversation
from convmodel.evaluation.metric import Figure, ratio
from convmodel.evaluation.word_split import ngrams, words

DISTINCT = (1, 2, 3)
"""Of how many words the runs are that are counted as different."""

REPEATED = 3
"""Of how many words the runs are that count as said again; shorter ones are often idioms."""


@dataclass(frozen=True, slots=True)
class Exchange:
    """A context, what somebody said then, and what a model says.

    Attributes:
        number: Which conversation it is from, counted from 1.
        context: The turns before.
        reference: The turn that followed.
        response: The model's.
        finish_reason: Why that ended: `stop` or `length`.
        tokens: Its length.
    """

    number: int
    context: Conversation
    reference: str
    response: str
    finish_reason: str = "stop"
    tokens: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON has them."""
        return asdict(self) | {"context": list(self.context.turns)}


def response_figures(exchanges: Sequence[Exchange]) -> list[Figure]:
    """Makes the figures of responses, one row an exchange."""
    said = [words(exchange.response) for exchange in exchanges]
    expected = [words(exchange.reference) for exchange in exchanges]
    one = [1] * len(exchanges)
    f1 = [unigram_f1(mine, theirs) for mine, theirs in zip(said, expected, strict=True)]
    cut = [exchange.finish_reason == "length" for exchange in exchanges]
    empty = [not exchange.response.strip() for exchange in exchanges]
    return [
        ratio("f1", "words shared with the reference (F1)", f1, one, better="higher", percent=True),
        *(_distinct(said, count) for count in DISTINCT),
        *_repetition(exchanges, said),
        ratio("length", "length / reference", [len(each) for each in said], [len(each) for each in expected]),
        ratio("runaway", "cut off at the limit", cut, one, better="lower", percent=True),
        ratio("empty", "empty", empty, one, better="lower", percent=True),
    ]


def unigram_f1(response: Sequence[str], reference: Sequence[str]) -> float:
    """Returns the harmonic mean of precision and recall of words; each counts as often as both have it.

    Source: P. Rajpurkar et al., SQuAD (2016), section 6.1. No articles are left out, which English alone has.

    Example:
        >>> unigram_f1(["so", "do", "i"], ["do", "i", "know", "you", "i"])
        0.5
    """
    common = sum((Counter(response) & Counter(reference)).values())
    return 2 * common / (len(response) + len(reference)) if common else 0.0


def _distinct(said: Sequence[Sequence[str]], count: int) -> Figure:
    """Different runs of words in all responses, divided by all of them.

    Source: J. Li et al., A Diversity-Promoting Objective Function for Neural Conversation Models (2016), section 5.1.
    """
    seen: set[tuple[str, ...]] = set()
    rows = []
    for each in said:
        runs = ngrams(each, count)
        rows.append((len(set(runs) - seen), len(runs)))
        seen.update(runs)
    new, all_of_them = zip(*rows, strict=True) if rows else ((), ())
    figure = ratio(f"distinct_{count}", f"distinct-{count}", new, all_of_them, better="higher", percent=True)
    return Figure(
        figure.name, figure.label, figure.rows, figure.formula, figure.better, figure.percent, resampled=False
    )


def _repetition(exchanges: Sequence[Exchange], said: Sequence[Sequence[str]]) -> list[Figure]:
    """Runs of words said again within a response, or from the context; and whole turns said again.

    Source of the first: S. Welleck et al., Neural Text Generation with Unlikelihood Training (2020), equation 10.
    """
    again, from_context, total, before = [], [], [], []
    for exchange, each in zip(exchanges, said, strict=True):
        runs, earlier = ngrams(each, REPEATED), [words(turn) for turn in exchange.context.turns]
        known = {run for turn in earlier for run in ngrams(turn, REPEATED)}
        again.append(len(runs) - len(set(runs)))
        from_context.append(sum(run in known for run in runs))
        total.append(len(runs))
        before.append(bool(each) and each in earlier)
    lower: dict[str, Any] = {"better": "lower", "percent": True}
    return [
        ratio("repeats_itself", "repetition within a response", again, total, **lower),
        ratio("repeats_context", "repetition of the context", from_context, total, **lower),
        ratio("said_before", "whole turns said again", before, np.ones(len(said)), **lower),
    ]
