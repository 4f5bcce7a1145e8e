"""The forward pass: logits after some new tokens, given the cache of the earlier ones.

Owns: calling any Hugging Face causal language model, and which models keep a cache that the engine can use.
"""

import inspect
from typing import TYPE_CHECKING, Any, Protocol

import torch

from convmodel.generation.engine.kv_cache import KVCache, can_cache
from convmodel.hf_model.eval_mode import evaluation_mode

if TYPE_CHECKING:
    from transformers import PreTrainedModel


_DISTANCES = frozenset({"bloom", "mpt"})
"""Model types without positions, which attend by distance."""

_SHIFTED_MASK = frozenset({"git"})
"""Model types that expect an image in the cache, and put its columns before the mask of padding, image or not."""


class Forward(Protocol):
    """Computes logits, and appends the keys and values of the new tokens to the cache.

    Attributes:
        layers: How many layers a cache needs.
    """

    layers: int

    def __call__(
        self, ids: torch.Tensor, types: torch.Tensor | None, positions: torch.Tensor, cache: KVCache
    ) -> torch.Tensor:
        """Processes new tokens, the same number in each row.

        Args:
            ids: New token ids, (rows, tokens).
            types: Token types, of the same shape; None for a model without them.
            positions: Positions in the sequences, of the same shape.
            cache: Keys and values of the earlier tokens; those of the new tokens are appended.

        Returns:
            The logits after the last token of each row, (rows, vocabulary).
        """


class HFForward:
    """Calls a Hugging Face model's own `forward`."""

    def __init__(self, hf_model: "PreTrainedModel") -> None:
        self.layers = hf_model.config.get_text_config(decoder=True).num_hidden_layers
        self._hf_model = hf_model
        self._parameters = inspect.signature(hf_model.forward).parameters.keys()

    def __call__(
        self, ids: torch.Tensor, types: torch.Tensor | None, positions: torch.Tensor, cache: KVCache
    ) -> torch.Tensor:
        """Processes new tokens; see `Forward`."""
        arguments: dict[str, Any] = {"attention_mask": cache.mask(ids.shape[1]), "logits_to_keep": 1}
        arguments |= {"position_ids": positions, "token_type_ids": types}
        arguments = {k: value for k, value in arguments.items() if k in self._parameters and value is not None}
        with evaluation_mode(self._hf_model):
            output = self._hf_model(input_ids=ids, past_key_values=cache, use_cache=True, **arguments)
        logits: torch.Tensor = output.logits
        return logits[:, -1]


def can_be_cached(hf_model: "PreTrainedModel") -> bool:
    """Returns whether the state of a model is only keys and values, and later tokens do not change them.

    State-space models also have a recurrent state, some old models take no cache, some (BART) count positions from
    the beginning of the cache, padding included, or mask padding elsewhere (GIT), and some rotary embeddings
    (longrope, dynamic) change the keys of earlier positions when a sequence becomes long.
    """
    config = hf_model.config.get_text_config(decoder=True)
    rotary = str(getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None))
    parameters = inspect.signature(hf_model.forward).parameters
    if config.is_encoder_decoder or config.model_type in _SHIFTED_MASK or "past_key_values" not in parameters:
        return False
    if "position_ids" not in parameters and config.model_type not in _DISTANCES:
        return False
    return not any(kind in rotary for kind in ("longrope", "dynamic")) and can_cache(hf_model.config)
