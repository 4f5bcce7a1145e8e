"""The order of several responses, by the model that generated them.

Owns: the scores by which responses are ordered.
"""

from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING

from convmodel.generation.engine.request import Row
from convmodel.generation.output import Response
from convmodel.hf_model.log_probs import log_probabilities
from convmodel.hf_model.next_turn import NextTurnHead
from convmodel.hf_model.reward_model import reward_model_of
from convmodel.layout.sequence import IGNORED, Window
from convmodel.layout.tokenizer import ConversationTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

RERANK = ("likelihood", "mmi")
"""The values of the option `rerank`."""

MMI_LAMBDA = 0.5
"""Default weight of a response's probability without the context, which counts against it."""


def response_scores(
    rerank: "str | NextTurnHead",
    hf_model: "PreTrainedModel",
    tokenizer: ConversationTokenizer,
    rows: Sequence[Row],
    responses: Sequence[Response],
    *,
    mmi_lambda: float = MMI_LAMBDA,
    repeat_weight: float = 0.0,
) -> list[float]:
    """Scores responses, in nats per token; the separator that closes one counts as a token, a stop string's do not.

    `likelihood` is ln p(response | context). `mmi` subtracts `mmi_lambda` times ln p(response), the response being the
    first turn of a conversation, so that responses that fit any context come later: Li et al. 2016, "A
    Diversity-Promoting Objective Function for Neural Conversation Models", arXiv:1510.03055, equation 9, without its
    position weights. Both are divided by the number of tokens, since sums would favour short responses. From each score
    comes off `repeat_weight` times the share of the response that repeats; see `repeated_share`.

    Args:
        rerank: One of `RERANK`, or a trained head.
        hf_model: The model.
        tokenizer: Its layout.
        rows: The responses as they were generated, with the log-probabilities of their tokens.
        responses: Their texts.
        mmi_lambda: The weight of ln p(response).
        repeat_weight: The weight of repetition.
    """
    penalties = [
        repeat_weight * repeated_share(row.request.ids, response.ids) if repeat_weight else 0.0
        for row, response in zip(rows, responses, strict=True)
    ]
    ends = [
        row.end_log_probability if len(response.ids) == len(row.tokens) else None
        for row, response in zip(rows, responses, strict=True)
    ]
    conditional = [
        sum(row.log_probabilities[: len(response.ids)]) + (end or 0.0)
        for row, response, end in zip(rows, responses, ends, strict=True)
    ]
    lengths = [len(response.ids) + (end is not None) for response, end in zip(responses, ends, strict=True)]
    if rerank != "likelihood":
        windows = [
            tokenizer.window_of_response(response.ids, is_closed=end is not None)
            for response, end in zip(responses, ends, strict=True)
        ]
        unconditional = log_probabilities(hf_model, tokenizer, windows)
        if isinstance(rerank, NextTurnHead):
            return [
                rerank.score(score, other, max(1, length)) - penalty
                for score, other, length, penalty in zip(conditional, unconditional, lengths, penalties, strict=True)
            ]
        conditional = [score - mmi_lambda * other for score, other in zip(conditional, unconditional, strict=True)]
    scored = zip(conditional, lengths, penalties, strict=True)
    return [score / max(1, length) - penalty for score, length, penalty in scored]


def rewards(
    hf_model: "PreTrainedModel", tokenizer: ConversationTokenizer, rows: Sequence[Row], responses: Sequence[Response]
) -> list[float]:
    """Returns ln p of each response, p being the probability that people like it; 0 without a reward model."""
    if (reward := reward_model_of(hf_model)) is None:
        return [0.0] * len(rows)
    windows = [_after_prompt(row, response) for row, response in zip(rows, responses, strict=True)]
    return reward.log_probabilities(hf_model, tokenizer, windows)


def _after_prompt(row: Row, response: Response) -> Window:
    """Returns a response after its prompt, with the separator that closes it; a stop string leaves none."""
    prompt, ids = row.request.ids, list(response.ids)
    if row.ended_by is not None and len(response.ids) == len(row.tokens):
        ids.append(row.ended_by)
    begin = len(prompt) if ids else len(prompt) - 1  # of an empty response that nothing closes, the prompt's last token
    types = row.request.types or [0] * len(prompt)
    whole = [*prompt, *ids]
    return Window(whole, [*types, *types[-1:] * len(ids)], [IGNORED] * begin + whole[begin:])


def repeated_share(prompt: Sequence[int], response: Sequence[int]) -> float:
    """Returns which share of a response's pairs of tokens occur before: in the prompt, or earlier in the response.

    Example:
        >>> repeated_share([1, 2, 3], [2, 3, 4, 2, 3])
        0.5
    """
    seen, repeated = set(pairwise(prompt)), 0
    for pair in pairwise(response):
        repeated += pair in seen
        seen.add(pair)
    return repeated / max(1, len(response) - 1)
