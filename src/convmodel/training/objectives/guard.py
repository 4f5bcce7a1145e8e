"""The guard of a run that learns from judgements: it stops the run before the model forgets ordinary conversation.

Owns: what is watched (perplexity of ordinary conversations, how many responses end by themselves), the limits, and the
sentence that says why a run was stopped. Does not keep weights (`best.py`).
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch

from convmodel.conversation import Conversation
from convmodel.errors import ConvModelError
from convmodel.evaluation.likelihood import EvaluationResult
from convmodel.evaluation.processes import Processes
from convmodel.evaluation.wilson import wilson
from convmodel.generation.batched import respond_to_all
from convmodel.generation.engine.engine import Engine
from convmodel.generation.options import read_options
from convmodel.hf_model.next_turn import before_last
from convmodel.layout.architecture import positions
from convmodel.layout.tokenizer import ConversationTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CONTEXTS = 32
"""How many contexts of the validation data are responded to."""

NEW_TOKENS = 48
"""The limit of each response; a longer one does not count as ended."""


@dataclass(frozen=True, slots=True)
class Health:
    """The validation perplexity after some step, and how many of some responses ended by themselves."""

    perplexity: float
    ended: int = 0
    responses: int = 0


class RegressionGuard:
    """Compares every validation of a run with the best so far, and the share of responses with that before the run.

    Replayed conversations may lower the perplexity at first; a rise after that is a loss, too.

    Attributes:
        before: The model as it was; None until it was measured.
        lowest: The lowest perplexity so far.
        reason: Why the run must stop, in a sentence; empty while all is well.
    """

    def __init__(self, max_regression: float, contexts: Iterable[Conversation]) -> None:
        """Chooses contexts from validation conversations; `max_regression` is relative: 0.05 allows 5 %."""
        self.before: Health | None = None
        self.lowest = math.inf
        self.reason = ""
        self._max_regression = max_regression
        self._new_tokens = NEW_TOKENS
        self.responses: Sequence[float] = (0, 0)  # how many ended by themselves, and how many there were
        self._contexts = [*islice(filter(None, map(_context, contexts)), CONTEXTS)]

    def respond(
        self, hf_model: "PreTrainedModel", tokenizer: ConversationTokenizer, processes: Processes | None = None
    ) -> None:
        """Generates the responses greedily, and counts how many end by themselves, for the next `check`.

        Several processes generate a share each, and count all of them.
        """
        processes = processes or Processes()
        limit = positions(hf_model.config)
        self._new_tokens = min(NEW_TOKENS, limit // 4) if limit else NEW_TOKENS
        options = read_options(hf_model, tokenizer, {"do_sample": False, "max_new_tokens": self._new_tokens})
        # Without memory for caches: the weights change before the next responses.
        engine = Engine(hf_model, cache_bytes=0)
        contexts = [context for context, _ in processes.own(self._contexts)]
        results = respond_to_all(engine, tokenizer, contexts, options, return_errors=True)
        outputs = [result for result in results if not isinstance(result, ConvModelError)]
        counts = [sum(output.finish_reasons[0] == "stop" for output in outputs), len(outputs)]
        self.responses = processes.total(torch.tensor(counts)).tolist()

    def check(self, result: EvaluationResult) -> bool:
        """Compares a validation with those before; the first one sets the limits. Returns whether all is well."""
        now = Health(result.perplexity, *map(int, self.responses))
        lowest, self.lowest = self.lowest, min(self.lowest, now.perplexity)
        if self.before is None:
            self.before = now
            return True
        if not now.perplexity <= lowest * (1 + self._max_regression):
            self.reason = (
                f"the validation perplexity rose from {lowest:.2f} to {now.perplexity:.2f}, more than "
                f"{self._max_regression:.0%}"
            )
        elif self.before.responses and now.responses:
            low, _ = wilson(self.before.ended, self.before.responses)
            if now.ended / now.responses < low:
                self.reason = (
                    f"{now.ended} of {now.responses} responses end by themselves within {self._new_tokens} tokens, "
                    f"{self.before.ended} of {self.before.responses} did before"
                )
        return not self.reason

    @property
    def ended(self) -> float | None:
        """The share of the latest responses that ended by themselves; None without responses."""
        ended, count = self.responses
        return ended / count if count else None

    def to_dict(self) -> dict[str, Any]:
        """Returns the state, for a checkpoint."""
        before = None if self.before is None else asdict(self.before)
        return {"before": before, "lowest": self.lowest, "reason": self.reason}

    def load_dict(self, state: dict[str, Any]) -> None:
        """Restores what `to_dict` returned."""
        self.before = None if state["before"] is None else Health(**state["before"])
        self.lowest, self.reason = state["lowest"], state["reason"]


def _context(conversation: Conversation) -> Conversation | None:
    """Returns a conversation without its last turn; None if too little is left to respond to."""
    return before_last(conversation) if len(conversation.turns) - conversation.pinned > 1 else None
