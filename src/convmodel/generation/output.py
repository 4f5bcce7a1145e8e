"""The results of generation.

Owns: the result of `generate` and the chunks of `stream`.
"""

from dataclasses import asdict, dataclass, field, replace
from typing import Any, Literal

FinishReason = Literal["stop", "length"]
"""`stop`: the model ended the response, or a stop string did; `length`: the token limit did."""


@dataclass(frozen=True, slots=True)
class Chunk:
    """A piece of streamed text; never half a character.

    Attributes:
        text: What to append; may be empty in the last chunk.
        finish_reason: Why the response ended; None in all chunks but the last.
        token_ids: The new tokens, without the one that ended the response.
        log_probabilities: The model's log-probability of each of them, in nats, before any option changed it; empty
            if transformers' `generate` chose them.
        tokens_per_second: Speed of the response after its first token; None in all chunks but the last.
    """

    text: str
    finish_reason: FinishReason | None = None
    token_ids: tuple[int, ...] = ()
    log_probabilities: tuple[float, ...] = ()
    tokens_per_second: float | None = None


@dataclass(frozen=True, slots=True)
class Response:
    """One generated response.

    Attributes:
        text: The response.
        ids: The token ids, without the stop token.
        finish_reason: Why the response ended.
        score: The score it was ranked by, in nats per token, or the beam score of transformers; else None.
    """

    text: str
    ids: list[int]
    finish_reason: FinishReason
    score: float | None = None


@dataclass(frozen=True)
class ConversationModelOutput:
    """Responses to a context; prints as the responses and the context.

    Attributes:
        responses: The texts, `num_return_sequences` of them.
        context: The turns before the responses.
        finish_reasons: Why each response ended: `stop` or `length`.
        response_tokens: Length of each response in tokens, without the stop token.
        prompt_tokens: Length of the prompt in tokens.
        left_out: How many of the oldest turns were left out of the prompt to make room.
        cut: How many tokens were cut from the beginning of the newest turn, if the caller allowed it.
        scores: The scores by which the responses are sorted, if they are: nats per token with `rerank`, beam
            scores of transformers with beams.
        raw: What transformers' `generate` returned: token ids, and scores or attentions if requested.

    Example:
        >>> ConversationModelOutput(responses=["Good thank you"], context=["Hello", "How are you"])
        ConversationModelOutput(responses=['Good thank you'], context=['Hello', 'How are you'])
    """

    responses: list[str]
    context: list[str]
    finish_reasons: list[FinishReason] = field(default_factory=list, repr=False)
    response_tokens: list[int] = field(default_factory=list, repr=False)
    prompt_tokens: int = field(default=0, repr=False)
    left_out: int = field(default=0, repr=False)
    cut: int = field(default=0, repr=False)
    scores: list[float] | None = field(default=None, repr=False)
    raw: Any = field(default=None, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields for JSON, without `raw` and fields that are None."""
        fields = asdict(replace(self, raw=None))
        return {name: value for name, value in fields.items() if value is not None}
