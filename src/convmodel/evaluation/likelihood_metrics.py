"""Metrics of likelihood: prediction of turns and of their ends, and ranking of next turns.

Owns: the definitions of these metrics. `docs/evaluation.md` has the formulas and their sources.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import TYPE_CHECKING, TypeVar

import numpy as np

from convmodel.conversation import Conversation
from convmodel.evaluation.metric import Metric, Ratio, Topic
from convmodel.evaluation.turn_statistics import TurnStatistics
from convmodel.hf_model.next_turn import as_last_turn, has_next_turn, measure_next_turns
from convmodel.layout.tokenizer import ConversationTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Key = TypeVar("Key", str, int)

DEEPEST = 12
"""Turns with higher numbers are shown together, since few conversations have them."""

# fmt: off
LIKELIHOOD: tuple[Ratio[TurnStatistics], ...] = (
    Ratio(name="perplexity", label="perplexity", topic=Topic.PREDICTION, better="lower", per_token=True,
        explanation="as uncertain as a uniform choice among this many tokens; lower is better; comparable only between "
        "models with the same vocabulary",
        above=lambda turn: turn.nats, below=lambda turn: turn.tokens, transform=np.exp),
    # Without an explanation, because perplexity is equivalent.
    Ratio(name="loss", label="loss, nats per token", topic=Topic.PREDICTION, better="lower", per_token=True,
        above=lambda turn: turn.nats, below=lambda turn: turn.tokens),
    Ratio(name="bits_per_byte", label="bits per byte", topic=Topic.PREDICTION, better="lower",
        explanation="bits to encode a byte of text; lower is better; comparable between any two models",
        above=lambda turn: turn.text_nats / math.log(2), below=lambda turn: turn.text_bytes),
    Ratio(name="token_accuracy", label="token accuracy", topic=Topic.PREDICTION, better="higher", percent=True,
        explanation="how often the most probable token is the correct one", per_token=True,
        above=lambda turn: turn.correct, below=lambda turn: turn.tokens),
    Ratio(name="stop_probability", label="p(end) where turns end", topic=Topic.TURN_ENDS, better="higher", percent=True,
        explanation="mean probability of the end of the turn where the reference ends; higher is better",
        above=lambda turn: turn.stop, below=lambda turn: turn.closed),
    Ratio(name="false_stop_rate", label="p(end) inside turns", topic=Topic.TURN_ENDS, better="lower", percent=True,
        explanation="mean probability of the end of the turn before its end; lower is better", per_token=True,
        above=lambda turn: turn.false_stop, below=lambda turn: turn.tokens - turn.closed),
    Ratio(name="ended_early", label="turns that would end early", topic=Topic.TURN_ENDS, better="lower", percent=True,
        explanation="turns that sampling would end too early; lower is better",
        above=lambda turn: turn.ended_early),
)
# fmt: on


def _hits(count: int, explanation: str, prefix: str = "", suffix: str = "") -> Ratio[int]:
    return Ratio(
        name=f"{prefix}hits_at_{count}", label=f"next turn hits@{count}{suffix}", topic=Topic.NEXT_TURNS,
        explanation=explanation, better="higher", percent=True, above=lambda rank: rank <= count,
    )  # fmt: skip


def _mrr(explanation: str, prefix: str = "", suffix: str = "") -> Ratio[int]:
    """Declares the mean reciprocal rank. Source: E. Voorhees, The TREC-8 Question Answering Track (1999)."""
    return Ratio(
        name=f"{prefix}mrr", label=f"next turn MRR{suffix}", topic=Topic.NEXT_TURNS, explanation=explanation,
        better="higher", above=lambda rank: 1 / rank,
    )  # fmt: skip


_GAIN = ("gain_", " (context's gain)")

RANKED_BY_TOKEN = {
    1: _hits(1, "how often the true next turn is likelier, per token, than turns of other conversations"),
    5: _hits(5, "how often the true next turn is among the first five"),
    0: _mrr("1 / the rank of the true next turn, on average; 1 is best"),
}
"""Metrics of the true turn's rank, by the number of candidates that they need more than."""

RANKED_BY_GAIN = {
    1: _hits(1, "the same, ranked by how much the context makes a turn likelier", *_GAIN),
    5: _hits(5, "the same, among the first five", *_GAIN),
    0: _mrr("the same as the mean of 1 / rank", *_GAIN),
}


def likelihood_metrics(conversations: Iterable[Sequence[TurnStatistics]]) -> list[Metric]:
    """Measures all of `LIKELIHOOD` on some turns of each conversation."""
    turns = [*conversations]
    return [definition.measure(turns) for definition in LIKELIHOOD]


def metrics_by_speaker(conversations: Sequence[Sequence[TurnStatistics]]) -> dict[str, list[Metric]]:
    """Measures the turns of each speaker, in the order in which they first speak."""
    return _by(lambda turn: turn.speaker, conversations)


def metrics_by_depth(
    conversations: Sequence[Sequence[TurnStatistics]], deepest: int = DEEPEST
) -> dict[str, list[Metric]]:
    """Measures the first turns, the second ones, ...; those after the deepest together, such as `13+`."""
    metrics = _by(lambda turn: min(turn.number, deepest + 1), conversations)
    return {f"{depth}+" if depth > deepest else f"{depth}": metrics[depth] for depth in sorted(metrics)}


def _by(
    key: Callable[[TurnStatistics], Key], conversations: Sequence[Sequence[TurnStatistics]]
) -> dict[Key, list[Metric]]:
    """Measures the turns of each key, in the order in which the keys first occur."""
    return {
        value: likelihood_metrics([turn for turn in turns if key(turn) == value] for turns in conversations)
        for value in dict.fromkeys(map(key, chain.from_iterable(conversations)))
    }


def next_turn_metrics(
    hf_model: "PreTrainedModel",
    tokenizer: ConversationTokenizer,
    conversations: Sequence[Conversation],
    *,
    distractors: int,
    seed: int = 0,
) -> list[Metric]:
    """Measures how well a model ranks each conversation's last turn among those of other conversations.

    Candidates are ranked by ln p(turn | context) per token, and by how much the context adds: ln p(turn | context)
    - ln p(turn). A tie counts against the model.

    Conversations of one turn do not count. The distractors are turns of other conversations, fewer where there are not
    so many; their choice does not depend on the order of the conversations.

    Raises:
        ConfigError: If there are no distractors.
        ConversationError: If all conversations have the same last turn.
        LogitsError: If the model's logits are not numbers.
    """
    candidates, _ = measure_next_turns(hf_model, tokenizer, conversations, distractors, seed)
    rows = iter(candidates)
    by_token: list[list[int]] = []  # ranks: one for each conversation that has a next turn
    by_gain: list[list[int]] = []
    for conversation in conversations:
        joined = as_last_turn(tokenizer, conversation)
        row = next(rows) if has_next_turn(joined) else []
        by_token.append(_rank([with_context / tokens for with_context, _, tokens in row]))
        by_gain.append(_rank([with_context - alone for with_context, alone, _ in row]))
    largest = max(map(len, candidates))
    return [
        definition.measure(ranks)
        for ranks, definitions in ((by_token, RANKED_BY_TOKEN), (by_gain, RANKED_BY_GAIN))
        for count, definition in definitions.items()
        if count < largest
    ]


def _rank(scores: Sequence[float]) -> list[int]:
    """Returns the place of the first score among all, from 1; nothing if there are none.

    What cannot be compared counts against the first: the gain of a turn that is impossible with and without context.
    """
    return [sum(not score < scores[0] for score in scores)] if scores else []
