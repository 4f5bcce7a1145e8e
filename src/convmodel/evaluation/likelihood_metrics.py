"""The figures of likelihood: how well a model predicts turns, knows where they end, and tells them from others.

Owns: what each figure is a ratio of. `docs/evaluation.md` has the formulas and their sources.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from convmodel.conversation import Conversation
from convmodel.evaluation.metric import Figure, ratio
from convmodel.evaluation.turn_statistics import Array, ConversationSums, TurnSums
from convmodel.hf_model.next_turn import has_next_turn, measure_next_turns
from convmodel.layout.tokenizer import ConversationTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DEEPEST = 12
"""Turns further on in a conversation are shown together, since few conversations have them."""

HITS = (1, 5)
"""Among how many first candidates the next turn must be to be a hit."""

Chosen: TypeAlias = Callable[[TurnSums], bool]


def likelihood_figures(conversations: Sequence[ConversationSums], chosen: Chosen = lambda turn: True) -> list[Figure]:
    """Makes the figures of turns.

    Args:
        conversations: What was measured.
        chosen: Which turns; by default all supervised ones.
    """
    turns = [[turn for turn in conversation.turns if chosen(turn)] for conversation in conversations]

    def sums(number: Callable[[TurnSums], float]) -> Array:
        return np.array([math.fsum(map(number, each)) for each in turns])

    tokens, nats = sums(lambda turn: turn.tokens), sums(lambda turn: turn.nats)
    ends = sums(lambda turn: turn.closed)
    return [
        ratio("perplexity", "perplexity", nats, tokens, better="lower", transform=np.exp),
        ratio("loss", "loss, nats a token", nats, tokens, better="lower"),
        ratio(
            "bits_per_byte",
            "bits a byte",
            sums(lambda turn: turn.text_nats) / math.log(2),
            sums(lambda turn: turn.text_bytes),
            better="lower",
        ),
        ratio(
            "token_accuracy",
            "token accuracy",
            sums(lambda turn: turn.correct),
            tokens,
            better="higher",
            percent=True,
        ),
        ratio(
            "stop_probability",
            "p(end) where turns end",
            sums(lambda turn: turn.stop),
            ends,
            better="higher",
            percent=True,
        ),
        ratio(
            "false_stop_rate",
            "p(end) inside turns",
            sums(lambda turn: turn.false_stop),
            sums(lambda turn: turn.text_tokens),
            better="lower",
            percent=True,
        ),
        ratio(
            "ended_early",
            "turns that would end early",
            sums(lambda turn: turn.ended_early),
            sums(lambda turn: 1),
            better="lower",
            percent=True,
        ),
    ]


def by_speaker(conversations: Sequence[ConversationSums]) -> dict[str, list[Figure]]:
    """Makes the figures of each speaker, in the order in which they first speak."""
    names = dict.fromkeys(turn.speaker for conversation in conversations for turn in conversation.turns)
    return {name: likelihood_figures(conversations, _said_by(name)) for name in names}


def _said_by(name: str) -> Chosen:
    return lambda turn: turn.speaker == name


def by_depth(conversations: Sequence[ConversationSums], deepest: int = DEEPEST) -> dict[str, list[Figure]]:
    """Makes the figures of the first turns, the second ones, ...; those after the deepest together, such as `13+`."""
    numbers = sorted({min(turn.number, deepest + 1) for each in conversations for turn in each.turns})
    return {
        f"{number}+" if number > deepest else f"{number}": likelihood_figures(conversations, _at(number, deepest))
        for number in numbers
    }


def _at(number: int, deepest: int) -> Chosen:
    return lambda turn: min(turn.number, deepest + 1) == number


def calibration(conversations: Iterable[ConversationSums]) -> Array:
    """Adds up how sure the model is of ends, tenth by tenth; the columns are those of `ConversationSums.stops`."""
    found: Array = np.sum([conversation.stops for conversation in conversations], axis=0)
    return found


def calibration_error(stops: Array) -> float:
    """Returns the expected calibration error of ends: how far p(separator) is from the share of true ends.

    The distance in each tenth, weighed by its targets. Source: C. Guo et al., On Calibration of Modern Neural Networks
    (2017), equation 3.

    Example:
        >>> calibration_error(np.array([[4, 0.4, 0], [1, 0.9, 1]]))
        0.1
    """
    targets, certain, ends = stops.T
    return float(np.abs(certain - ends).sum() / max(1.0, targets.sum()))


def next_turn_figures(
    hf_model: "PreTrainedModel",
    tokenizer: ConversationTokenizer,
    conversations: Sequence[Conversation],
    *,
    distractors: int,
    seed: int = 0,
    progress: Callable[[int], None] = lambda _: None,
) -> list[Figure]:
    """Makes the figures of telling each conversation's last turn from those of other conversations.

    Candidates are ranked by ln p(turn | context) a token, and by how much the context adds to it: ln p(turn | context)
    - ln p(turn). A tie counts against the model.

    Args:
        hf_model: The model.
        tokenizer: Its layout.
        conversations: Those of one turn have no next one and do not count.
        distractors: How many turns of others; fewer where there are not so many. None says what the true turn says.
        seed: Seeds their choice, which does not depend on the order of the conversations.
        progress: Called with the number of conversations done.

    Raises:
        ConfigError: If there are no distractors.
        ConversationError: If all conversations end alike.
    """
    measured, _ = measure_next_turns(hf_model, tokenizer, conversations, distractors, seed, progress)
    rows = iter(measured)
    arranged = conversations if tokenizer.layout.use_token_types else [each.joined() for each in conversations]
    by_token: list[int] = []
    by_gain: list[int] = []
    for each in arranged:
        row = next(rows) if has_next_turn(each) else []
        by_token.append(_rank([given / tokens for given, _, tokens in row]))
        by_gain.append(_rank([given - alone for given, alone, _ in row]))
    most = max(map(len, measured))
    return [*_rank_figures(by_token, most), *_rank_figures(by_gain, most, "gain_", " (context's gain)")]


def _rank(scores: Sequence[float]) -> int:
    """Returns the place of the first score among all, from 1; 0 if there are none."""
    return sum(score >= scores[0] for score in scores)


def _rank_figures(ranks: Sequence[int], candidates: int, prefix: str = "", label: str = "") -> list[Figure]:
    """Makes the hits and the mean reciprocal rank; source: E. Voorhees, The TREC-8 Question Answering Track (1999)."""
    counted = [float(rank > 0) for rank in ranks]
    return [
        *(
            ratio(
                f"{prefix}hits_at_{most}",
                f"next turn hits@{most}{label}",
                [float(0 < rank <= most) for rank in ranks],
                counted,
                better="higher",
                percent=True,
            )
            for most in HITS
            if most < candidates
        ),
        ratio(
            f"{prefix}mrr",
            f"next turn MRR{label}",
            [1 / rank if rank else 0.0 for rank in ranks],
            counted,
            better="higher",
        ),
    ]
