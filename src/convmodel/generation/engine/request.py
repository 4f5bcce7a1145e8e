"""What is asked of the engine, and what has come of it so far.

Owns: when a response ends.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from convmodel.generation.engine.sampling import Sampler
from convmodel.generation.output import FinishReason


@dataclass(slots=True, eq=False)
class Row:
    """One response in work.

    Attributes:
        request: What it responds to.
        sampler: How its tokens are chosen.
        tokens: Its token ids so far, without the one that ended it.
        log_probabilities: What the model gave each of them, in nats.
        alternatives: The likeliest tokens in the place of each of them, ids and nats, as many as were asked for.
        finish_reason: Why it ended; None while it goes on.
        ended_by: The id that ended it, if one did.
        end_log_probability: What the model gave that one, in nats.
    """

    request: "Request"
    sampler: Sampler
    tokens: list[int] = field(default_factory=list)
    log_probabilities: list[float] = field(default_factory=list)
    alternatives: list[list[tuple[int, float]]] = field(default_factory=list)
    finish_reason: FinishReason | None = None
    ended_by: int | None = None
    end_log_probability: float | None = None

    @property
    def live(self) -> bool:
        """Whether it goes on."""
        return self.finish_reason is None and not self.request.done

    @property
    def ids(self) -> torch.Tensor:
        """Prompt and response so far, (1, tokens)."""
        return torch.tensor([self.request.ids + self.tokens])

    def add(self, index: int, log_probability: float, alternatives: list[tuple[int, float]]) -> None:
        """Takes the next token, unless a stop string has ended the response meanwhile."""
        if self.finish_reason is not None:
            return
        if index in self.request.stop_ids:
            self.finish_reason, self.ended_by, self.end_log_probability = "stop", index, log_probability
            return
        self.tokens.append(index)
        self.log_probabilities.append(log_probability)
        self.alternatives.append(alternatives)
        if len(self.tokens) == self.request.max_new_tokens:
            self.finish_reason = "length"


class Request:
    """A prompt, and the responses to it.

    Attributes:
        ids: The prompt's token ids.
        types: Its token types; empty for a model without them. Responses go on with the last one.
        stop_ids: Ids that end a response.
        max_new_tokens: Its longest length; the id that ends it counts, too.
        remember: Whether what was computed is kept for requests that begin the same.
        patient: Whether its responses may stand still while the prompts of others are read, which is faster for all
            together.
        alternatives: How many of the likeliest tokens are noted at each token of a response; set it before it is added.
        rows: The responses, one for each sampler.
        begun_at: Since when its prompt is read, as `time.monotonic` has it; None before.
        cached_tokens: How many tokens of the prompt had been computed before.
        progress: How often something new has come.
        error: What went wrong, if something did.
        cancelled: Whether nobody waits for it any more.
    """

    def __init__(
        self,
        ids: Sequence[int],
        types: Sequence[int],
        samplers: Sequence[Sampler],
        *,
        stop_ids: frozenset[int],
        max_new_tokens: int,
        remember: bool = True,
        patient: bool = False,
    ) -> None:
        self.ids = list(ids)
        self.types = list(types)
        self.stop_ids = stop_ids
        self.max_new_tokens = max_new_tokens
        self.remember = remember
        self.patient = patient
        self.alternatives = 0
        self.rows = [Row(self, sampler) for sampler in samplers]
        self.begun_at: float | None = None
        self.cached_tokens = 0
        self.progress = 0
        self.error: Exception | None = None
        self.cancelled = False

    @property
    def done(self) -> bool:
        """Whether nothing more will come."""
        return self.cancelled or self.error is not None or all(row.finish_reason for row in self.rows)

    def types_of(self, row: Row) -> list[int]:
        """Returns the types of the prompt and of a response so far."""
        return self.types + self.types[-1:] * len(row.tokens)
