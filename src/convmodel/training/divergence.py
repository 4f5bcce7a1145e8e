"""Losses and gradients that are not finite.

Owns: the error, and naming the conversations that are to blame. Does not know when they are computed (`trainer.py`).
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from convmodel.errors import ConfigError
from convmodel.hf_model.log_probs import measure_targets
from convmodel.layout.sequence import Window
from convmodel.layout.tokenizer import ConversationTokenizer
from convmodel.training.sharding import is_sharded
from convmodel.training.step.forward import plain_forward

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_NAMED = 3  # conversations in a message


class DivergedError(ConfigError):
    """Training computes values that are not finite; `problem` says which, without the fix."""

    def __init__(self, problem: str, fix: str) -> None:
        super().__init__(f"{problem}{fix}")
        self.problem = problem


def diverged(problem: str, step: int, learning_rate: float) -> DivergedError:
    """Returns the error for a problem at a step; at step 0, no weight has changed yet."""
    if step == 0:
        return DivergedError(
            f"{problem} at step 1, before any weight has changed",
            ": the model itself computes values that are not finite; set precision to fp32, or use other weights",
        )
    fix = f"lower learning_rate (now {learning_rate:g}) or raise warmup_steps"
    return DivergedError(f"{problem} at step {step}", f": training has diverged; {fix}")


def sources_to_blame(hf_model: "PreTrainedModel", tokenizer: ConversationTokenizer, windows: Sequence[Window]) -> str:
    """Names the conversations of windows whose loss is not finite, or of all if each alone has a finite one."""
    # A sharded model computes only when all processes call it, and the others may have no problem.
    examined = [] if is_sharded(hf_model) else windows
    with plain_forward(hf_model):
        losses = [measure_targets(hf_model, tokenizer, [window], allow_nan=True)[0].sum() for window in examined]
    blamed = [window for window, loss in zip(examined, losses, strict=True) if not loss.isfinite()] or windows
    sources = list(dict.fromkeys(window.source for window in blamed))
    more = f" and {len(sources) - _NAMED} more" if len(sources) > _NAMED else ""
    return ", ".join(sources[:_NAMED]) + more
