"""A language model's head: from hidden states to logits.

Owns: detecting whether the head is one matrix product, and applying it in chunks, so that the logits of a batch
(tokens x vocabulary, the largest tensor of all) are never in memory as a whole.
"""

import logging
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import nn

from convmodel.hf_model.eval_mode import evaluation_mode
from convmodel.hf_model.int8_layers import Int8Linear, exact_products
from convmodel.hf_model.int8_matrix import Int8Matrix

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

LOGITS_AT_ONCE = 1 << 25
"""Logits per chunk: 128 MiB in float32. Larger chunks are hardly faster."""

_TOLERANCE = 1e-3  # relative to the largest logit; scaling or capping the logits differs far more


@dataclass(frozen=True, slots=True)
class Head:
    """A model split into its base, which computes hidden states, and a linear layer that computes logits."""

    base: nn.Module
    layer: nn.Module  # linear, packed, or peft's wrapper around a linear layer if single rows of it are trained

    @classmethod
    def of(cls, hf_model: "PreTrainedModel") -> "Head | None":
        """Splits a model and compares a few of its logits with those of the parts.

        None if the head is more than a matrix product, as in Gemma 2, which caps its logits.
        """
        base, layer = hf_model.base_model, hf_model.get_output_embeddings()
        head = cls(base, layer)
        # A subclass may compute something else that the comparison does not show: LoRA starts as zero.
        plain = type(head.own_layer) is nn.Linear or head.is_packed
        # A sharded weight is only gathered inside the forward pass of the whole model.
        if base is hf_model or not plain or _is_sharded(getattr(head.own_layer, "weight", None)):
            return None
        rows: Any = hf_model.config.get_text_config(decoder=True).vocab_size
        ids = torch.tensor([[(7 * number) % rows for number in range(9)]], device=hf_model.device)
        try:
            # Rounded activations would hide a cap on the logits.
            with evaluation_mode(hf_model), torch.inference_mode(), exact_products(hf_model):
                expected = hf_model(input_ids=ids, use_cache=False).logits.float()
                actual = torch.cat([*head.logits(head.hidden(input_ids=ids)[0])])
        except (AttributeError, RuntimeError, TypeError, ValueError) as error:
            logger.debug("%s cannot be split: %s", hf_model.config.model_type, error)
            return None
        equal = (expected[0] - actual).abs().max() <= _TOLERANCE * expected.abs().max()
        return head if bool(equal) else None

    @property
    def own_layer(self) -> Any:
        """The layer without peft's wrapper."""
        adapter: Any = getattr(self.layer, "token_adapter", None)
        return self.layer if adapter is None else adapter.get_base_layer()

    @property
    def is_packed(self) -> bool:
        """Whether the matrix is packed."""
        return isinstance(self.own_layer, Int8Linear)

    @property
    def weight(self) -> torch.Tensor | Int8Matrix:
        """The matrix, of shape (vocabulary, width), with the rows that are trained, unless adapters are switched off.

        With tied weights it is also the embedding's.
        """
        adapter = self._rows_adapter
        if self.is_packed:
            matrix: Int8Matrix = self.own_layer.matrix
            return matrix if self.trained_rows is None else replace(matrix, replaced=self.trained_rows)
        weight: torch.Tensor = (
            self.own_layer.weight if adapter is None else adapter.get_merged_weights(adapter.active_adapters)
        )
        return weight

    @property
    def bias(self) -> torch.Tensor | None:
        """The bias, if any."""
        bias: torch.Tensor | None = self.own_layer.bias
        return bias

    @property
    def _rows_adapter(self) -> Any:
        adapter: Any = getattr(self.layer, "token_adapter", None)
        return None if adapter is None or adapter.disable_adapters else adapter

    @property
    def trained_rows(self) -> tuple[list[int], torch.Tensor] | None:
        """The only rows of the matrix that are trained, if it has such: their numbers, and shape (rows, width)."""
        adapter = self._rows_adapter
        if adapter is None or len(adapter.active_adapters) != 1:
            return None
        if not self.is_packed and self.own_layer.weight.requires_grad:
            return None
        [name] = adapter.active_adapters
        return adapter.token_indices[name], adapter.trainable_tokens_delta[name]

    def hidden(self, **inputs: Any) -> torch.Tensor:
        """Returns the hidden states that the head is applied to, of shape (batch, seq, width)."""
        states: torch.Tensor = self.base(**{"use_cache": False, **inputs}).last_hidden_state
        return states

    def logits(self, hidden: torch.Tensor) -> Iterator[torch.Tensor]:
        """Yields the logits of hidden states of shape (tokens, width) in float32, chunk by chunk."""
        if self.is_packed:
            for part in hidden.split(max(1, LOGITS_AT_ONCE // self.own_layer.out_features)):
                yield self.layer(part).float()
            return
        weight, bias = self.weight, self.bias
        assert isinstance(weight, torch.Tensor)
        for part in hidden.to(weight.device, weight.dtype).split(chunk_size(weight)):
            yield F.linear(part, weight, bias).float()


def chunk_size(weight: torch.Tensor | Int8Matrix) -> int:
    """Returns the number of tokens per chunk for a head of shape (vocabulary, width)."""
    return max(1, LOGITS_AT_ONCE // weight.shape[0])


def _is_sharded(weight: object) -> bool:
    """Returns whether a weight is sharded over processes; a single process skips the import, which takes 0.4 s."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(weight, DTensor)
