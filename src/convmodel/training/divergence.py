"""The error of a run whose loss or gradient is no longer finite.

Owns: finding the windows that are to blame, and the message. Does not know when a run is checked.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from convmodel.errors import ConfigError
from convmodel.hf_model.log_probs import token_nats
from convmodel.layout.sequence import Window
from convmodel.layout.tokenizer import ConversationTokenizer
from convmodel.training.sharding import is_sharded
from convmodel.training.step.forward import plain_forward

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_NAMED = 3  # conversations


def sources_to_blame(hf_model: "PreTrainedModel", tokenizer: ConversationTokenizer, windows: Sequence[Window]) -> str:
    """Names the conversations of windows whose loss is not finite, or of all windows if each alone has a finite one."""
    # A sharded model computes only when all processes call it, and the others may have no problem.
    examined = [] if is_sharded(hf_model) else windows
    with plain_forward(hf_model):
        losses = [token_nats(hf_model, tokenizer, [window])[0].sum() for window in examined]
    blamed = [window for window, loss in zip(examined, losses, strict=True) if not loss.isfinite()] or windows
    sources = list(dict.fromkeys(window.source for window in blamed))
    more = f" and {len(sources) - _NAMED} more" if len(sources) > _NAMED else ""
    return ", ".join(sources[:_NAMED]) + more


def divergence(problem: str, step: int, learning_rate: float) -> ConfigError:
    """Returns the error to raise.

    Example:
        >>> print(divergence("the loss is nan", 7, 0.01))
        the loss is nan at update 7: training has diverged; lower learning_rate (now 0.01) or raise warmup_steps
    """
    return ConfigError(
        f"{problem} at update {step}: training has diverged; "
        f"lower learning_rate (now {learning_rate:g}) or raise warmup_steps"
    )
