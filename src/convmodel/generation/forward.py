"""One step of a model: the logits after some new tokens, given the cache of those before.

Owns: calling any Hugging Face causal language model, and noticing that its weights have changed.
"""

import inspect
from typing import TYPE_CHECKING, Any, Protocol

import torch

from convmodel.generation.kv_cache import KVCache
from convmodel.inference import evaluation_mode

if TYPE_CHECKING:
    from transformers import PreTrainedModel


class Forward(Protocol):
    """Computes logits; what it reads is appended to the cache.

    Attributes:
        layers: How many layers a cache for it has.
    """

    layers: int

    def __call__(
        self, ids: torch.Tensor, types: torch.Tensor | None, positions: torch.Tensor, cache: KVCache
    ) -> torch.Tensor:
        """Reads new tokens, the same number in each row.

        Args:
            ids: New token ids, (rows, tokens).
            types: Their token types, of the same shape; None for a model without them.
            positions: Where they stand in their sequences, of the same shape.
            cache: What was read before; it grows by them.

        Returns:
            The logits at the last of them, (rows, vocabulary).
        """


class HFForward:
    """Calls a Hugging Face model's own `forward`."""

    def __init__(self, hf_model: "PreTrainedModel") -> None:
        self.layers = hf_model.config.get_text_config(decoder=True).num_hidden_layers
        self._hf_model = hf_model
        self._taken = inspect.signature(hf_model.forward).parameters.keys()

    def __call__(
        self, ids: torch.Tensor, types: torch.Tensor | None, positions: torch.Tensor, cache: KVCache
    ) -> torch.Tensor:
        """Reads new tokens; see `Forward`."""
        arguments: dict[str, Any] = {"attention_mask": cache.mask(ids.shape[1]), "logits_to_keep": 1}
        arguments |= {"position_ids": positions, "token_type_ids": types}
        given = {name: value for name, value in arguments.items() if name in self._taken and value is not None}
        with evaluation_mode(self._hf_model):
            logits: torch.Tensor = self._hf_model(input_ids=ids, past_key_values=cache, use_cache=True, **given).logits
        return logits[:, -1]


def weights_version(hf_model: "PreTrainedModel") -> tuple[Any, ...]:
    """Returns what differs after the weights were trained, loaded, moved or replaced.

    torch counts the changes made to a tensor in place, but not those of fused optimizers, which change every number.
    """
    return tuple(
        (id(weight), weight.data_ptr(), weight._version, weight.detach().view(-1)[weight.numel() // 2].item())
        for weight in hf_model.parameters()
    )
