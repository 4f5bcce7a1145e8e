"""A language model's head: from hidden states to logits.

Owns: telling whether that is one matrix product, and computing with it in chunks, so that the logits of a batch
(tokens x vocabulary, the largest tensor of all) are never held whole.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from convmodel.hf_model.eval_mode import evaluation_mode

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

LOGITS_AT_ONCE = 1 << 25
"""Logits in one chunk: 128 MiB in float32. Larger chunks are hardly faster."""

_TOLERANCE = 1e-3  # of the largest logit; a scale or a cap on the logits differs by far more


@dataclass(frozen=True, slots=True)
class Head:
    """A model taken apart: its base computes hidden states, and one linear layer makes logits of them.

    Attributes:
        base: The model without its head.
        layer: The head: a linear layer, or peft's wrapper around one, where single rows of it are trained.
    """

    base: nn.Module
    layer: nn.Module

    @classmethod
    def of(cls, hf_model: "PreTrainedModel") -> "Head | None":
        """Takes a model apart and compares a few of its logits with those of the parts.

        Returns:
            The parts; None where the head does more than a matrix product, as in Gemma 2, which caps its logits.
        """
        base, layer = hf_model.base_model, hf_model.get_output_embeddings()
        rows_adapter: Any = getattr(layer, "token_adapter", None)
        # A subclass may compute something else, which these numbers need not show: LoRA begins as nothing.
        plain = type(layer if rows_adapter is None else rows_adapter.get_base_layer()) is nn.Linear
        # A weight that is spread over processes is only whole inside the whole model's forward.
        if base is hf_model or not plain or _is_spread(getattr(layer, "weight", None)):
            return None
        head = cls(base, layer)
        embedding: Any = hf_model.get_input_embeddings()
        rows = embedding.weight.shape[0]
        ids = torch.tensor([[(7 * number) % rows for number in range(9)]], device=hf_model.device)
        try:
            with evaluation_mode(hf_model), torch.inference_mode():
                whole = hf_model(input_ids=ids, use_cache=False).logits.float()
                parts = torch.cat([*head.logits(head.hidden(input_ids=ids)[0])])
        except (AttributeError, RuntimeError, TypeError, ValueError) as error:
            logger.debug("%s cannot be taken apart: %s", hf_model.config.model_type, error)
            return None
        apart = (whole[0] - parts).abs().max() <= _TOLERANCE * whole.abs().max()
        return head if bool(apart) else None

    @property
    def weight(self) -> torch.Tensor:
        """The matrix, of shape (vocabulary, width); with tied weights it is the embedding's too."""
        layer: Any = self.layer
        adapter = getattr(layer, "token_adapter", None)
        found: torch.Tensor = layer.weight if adapter is None else adapter.get_merged_weights(adapter.active_adapters)
        return found

    @property
    def bias(self) -> torch.Tensor | None:
        """What is added to each logit, if anything is."""
        adapter: Any = getattr(self.layer, "token_adapter", None)
        layer: Any = self.layer if adapter is None else adapter.get_base_layer()
        bias: torch.Tensor | None = layer.bias
        return bias

    def hidden(self, **inputs: Any) -> torch.Tensor:
        """Computes the hidden states that the head is applied to, of shape (batch, seq, width)."""
        found: torch.Tensor = self.base(**inputs, use_cache=False).last_hidden_state
        return found

    def logits(self, hidden: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yields logits in float32, chunk by chunk.

        Args:
            hidden: Shape (tokens, width).
        """
        weight, bias = self.weight, self.bias
        for part in hidden.to(weight.device, weight.dtype).split(chunk_size(weight)):
            yield F.linear(part, weight, bias).float()


def chunk_size(weight: torch.Tensor) -> int:
    """Returns how many tokens a chunk has, for a head's matrix of shape (vocabulary, width)."""
    return max(1, LOGITS_AT_ONCE // weight.shape[0])


def _is_spread(weight: object) -> bool:
    """Tells whether a weight is spread over processes; the import takes 0.4 s, which one process alone can save."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(weight, DTensor)
