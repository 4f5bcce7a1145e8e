"""A request to the engine: a prompt, and the responses to it so far.

Owns: when a response ends.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from convmodel.generation.engine.kv_cache import KVCache
from convmodel.generation.engine.sampling import Sampler
from convmodel.generation.output import FinishReason


@dataclass(slots=True, eq=False)
class Row:
    """One response.

    Attributes:
        request: The request with the prompt.
        sampler: Chooses the tokens.
        tokens: The token ids so far, without the stop token.
        log_probabilities: The model's log-probability of each token, in nats; empty if transformers generated them.
        alternatives: The most probable tokens at each position, as ids and log-probabilities in nats;
            `request.alternatives` per position.
        finish_reason: Why the response ended; None while it is active.
        ended_by: The id of the stop token, if one ended the response.
        end_log_probability: The log-probability of the stop token, in nats.
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
        """Whether the response has not ended."""
        return self.finish_reason is None and not self.request.done

    @property
    def ids(self) -> torch.Tensor:
        """The ids of the prompt and the response so far, (1, tokens)."""
        return torch.tensor([self.request.ids + self.tokens])

    def add(
        self, index: int, log_probability: float | None = None, alternatives: list[tuple[int, float]] | None = None
    ) -> None:
        """Appends the next token, unless the response has ended, for example by a stop string."""
        if self.finish_reason is not None:
            return
        if index in self.request.stop_ids:
            self.ended_by, self.end_log_probability, self.finish_reason = index, log_probability, "stop"
            return
        if log_probability is not None:
            end = len(self.tokens)  # both are as long, unless Ctrl-C came between these lines
            self.log_probabilities[end:] = [log_probability]
            self.alternatives[end:] = [alternatives or []]
        self.tokens.append(index)  # last, since other threads read the lists above up to the length of this one
        if len(self.tokens) == self.request.max_new_tokens:
            self.finish_reason = "length"


class Request:
    """A prompt, and the responses to it.

    Attributes:
        ids: The prompt's token ids.
        types: The prompt's token types; empty for a model without them. Response tokens have the type of the last one.
        stop_ids: Ids that end a response.
        max_new_tokens: The maximum number of tokens of a response, the stop token included.
        remember: Whether the keys and values are kept for requests with the same beginning.
        patient: Whether the responses may pause during the prefill of other requests, for a higher throughput.
        lead: What the decoded responses begin with and what is not part of their texts, see `Prompt`; set afterwards.
        alternatives: How many of the most probable tokens are recorded at each position; set before `Engine.add`.
        scope: Whose entries of the prefix cache it shares; set before `Engine.add`, as is `whole_turns`.
        whole_turns: Whether it shares no part of a turn, only whole ones; see `PrefixCache`.
        rows: The responses, one per sampler.
        cache: The keys and values of the prompt, until the responses join a batch.
        prefilled: Whether the prompt has been processed and the first token of each response chosen.
        begun_at: When the prefill began, in seconds of `time.monotonic`; None before.
        cached_tokens: How many tokens of the prompt came from the prefix cache.
        progress: How many steps have added tokens to the responses.
        error: The exception that ended the request, if any.
        cancelled: Whether the caller no longer waits for the request.
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
        self.lead = ""
        self.alternatives = 0
        self.scope: str | None = None
        self.whole_turns = False
        self.rows = [Row(self, sampler) for sampler in samplers]
        self.cache: KVCache | None = None
        self.prefilled = False
        self.begun_at: float | None = None
        self.cached_tokens = 0
        self.progress = 0
        self.error: Exception | None = None
        self.cancelled = False

    @property
    def done(self) -> bool:
        """Whether no further tokens will be generated."""
        return self.cancelled or self.error is not None or all(row.finish_reason for row in self.rows)

    def types_of(self, row: Row) -> list[int]:
        """Returns the token types of the prompt and of a response so far."""
        return self.types + self.types[-1:] * len(row.tokens)
