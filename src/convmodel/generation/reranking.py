"""Which of several responses comes first, as the model that made them judges.

Owns: the scores by which responses are ordered.
"""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from convmodel.generation.engine.request import Row
from convmodel.generation.output import Response
from convmodel.hf_model.log_probs import log_probabilities
from convmodel.hf_model.next_turn import NextTurnHead
from convmodel.layout.sequence import IGNORED, EncodedTurn, Window
from convmodel.layout.tokenizer import ConversationTokenizer
from convmodel.layout.windows import make_windows

if TYPE_CHECKING:
    from transformers import PreTrainedModel

RERANK = ("likelihood", "mmi")
"""What responses may be ordered by."""

MMI_LAMBDA = 0.5
"""How much a response's probability without any context counts against it, unless the caller says otherwise."""


def response_scores(
    rerank: "str | NextTurnHead",
    hf_model: "PreTrainedModel",
    tokenizer: ConversationTokenizer,
    rows: Sequence[Row],
    responses: Sequence[Response],
    *,
    mmi_lambda: float = MMI_LAMBDA,
) -> list[float]:
    """Scores responses, in nats a token; the separator that closes one is a token of it, a stop string's is not.

    `likelihood` is ln p(response | context). `mmi` takes `mmi_lambda` times ln p(response) away, the response alone
    being the beginning of a conversation, so that what could be said to anything comes later: Li et al. 2016, "A
    Diversity-Promoting Objective Function for Neural Conversation Models", arXiv:1510.03055, equation 9, without its
    other weights for the first words. Both are divided by the number of tokens, as sums would favour short responses.

    Args:
        rerank: One of `RERANK`, or a head that was trained for it.
        hf_model: The model.
        tokenizer: Its layout.
        rows: The responses as they were generated, with the log-probabilities of their tokens.
        responses: The same as text.
        mmi_lambda: The weight of ln p(response).
    """
    ended = [row.end_log_probability for row in rows]
    ends = [
        end if end is not None and len(response.ids) == len(row.tokens) else None
        for row, response, end in zip(rows, responses, ended, strict=True)
    ]
    given = [
        sum(row.log_probabilities[: len(response.ids)]) + (end or 0.0)
        for row, response, end in zip(rows, responses, ends, strict=True)
    ]
    lengths = [len(response.ids) + (end is not None) for response, end in zip(responses, ends, strict=True)]
    if rerank != "likelihood":
        windows = [
            _alone(response.ids, tokenizer.sep_token_id, is_closed=end is not None)
            for response, end in zip(responses, ends, strict=True)
        ]
        alone = log_probabilities(hf_model, tokenizer, windows)
        if isinstance(rerank, NextTurnHead):
            return [rerank.score(*each) for each in zip(given, alone, map(partial(max, 1), lengths), strict=True)]
        given = [score - mmi_lambda * other for score, other in zip(given, alone, strict=True)]
    return [score / max(1, length) for score, length in zip(given, lengths, strict=True)]


def _alone(ids: Sequence[int], separator: int, *, is_closed: bool) -> Window:
    """Lays a response out as the first turn of a conversation."""
    turn = EncodedTurn(ids, 0, supervised=True)
    [window] = make_windows([turn], separator, 0, max_length=max(3, turn.cost + 1))
    return window if is_closed else replace(window, labels=[*window.labels[:-1], IGNORED])
