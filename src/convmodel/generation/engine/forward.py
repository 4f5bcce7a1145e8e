"""One step of a model: the logits after some new tokens, given the cache of those before.

Owns: calling any Hugging Face causal language model, and noticing that its weights have changed.
"""

import inspect
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

import torch

from convmodel.generation.engine.kv_cache import KVCache, can_cache
from convmodel.hf_model.eval_mode import evaluation_mode

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


def read_tokens(
    forward: Forward,
    ids: Sequence[Sequence[int]],
    types: Sequence[Sequence[int]],
    cache: KVCache,
    *,
    live: Sequence[bool],
    device: torch.device,
) -> torch.Tensor:
    """Reads the next tokens of each row of a cache.

    Args:
        forward: What computes.
        ids: Token ids, the same number for each row.
        types: Their types; empty where a model has none, and for rows that are of no more use.
        cache: What was read before.
        live: Which rows are of use; the others are at position 0, since they may have passed the last.
        device: Where the model is.

    Returns:
        The logits at the last token of each row, (rows, vocabulary).

    Raises:
        RuntimeError: If the model has not kept what it read.
    """
    new, end = len(ids[0]), cache.length + len(ids[0])
    begins = [cache.length - start for start in cache.starts]
    positions = [[*range(begin, begin + new)] if use else [0] * new for begin, use in zip(begins, live, strict=True)]
    known = [each or [0] * new for each in types] if any(types) else None
    logits = forward(
        torch.tensor(ids, device=device),
        None if known is None else torch.tensor(known, device=device),
        torch.tensor(positions, device=device),
        cache,
    )
    if cache.length != end:
        raise RuntimeError("this model does not keep keys and values as others do: give use_cache=False")
    return logits


def can_be_cached(hf_model: "PreTrainedModel") -> bool:
    """Tells whether a model keeps keys and values of tokens and nothing else, the same whatever comes later.

    State-space models keep something else, some old models take no cache, and with some rotary embeddings (longrope,
    dynamic) what a long sequence needs is not what a short one has kept.
    """
    config = hf_model.config.get_text_config(decoder=True)
    rotary = str(getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None))
    if config.is_encoder_decoder or "past_key_values" not in inspect.signature(hf_model.forward).parameters:
        return False
    return not any(kind in rotary for kind in ("longrope", "dynamic")) and can_cache(hf_model.config)
