"""The layers of a decoder in training on a CPU, with compiled norms, attention and activations.

Owns: which models get them, a trial of whether they compute what transformers' layers do, and the windows of a batch,
which say what attends to what. Layers keep their modules and parameters: only what they compute is replaced.
"""

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.activations import SiLUActivation

from convmodel.hf_model.decoder import Decoder, DecoderLayer, Norm, UnknownDecoderError, decoder_of, is_tanh_gelu
from convmodel.hf_model.eval_mode import evaluation_mode
from convmodel.hf_model.training_kernels import (
    DTYPES,
    Gate,
    Heads,
    Rotation,
    Windows,
    are_compiled,
    attend,
    gated,
    rms_norm,
)
from convmodel.training.sharding import is_sharded
from convmodel.training.step.products import JointProducts, UnknownLayerError, Updates

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)


class Batch:
    """What the layers need to know of the batch that is being processed.

    Attributes:
        windows: Its windows; None if they are not known, and layers compute as transformers' do.
        updates: Counts the steps of the optimizer.
    """

    def __init__(self) -> None:
        self.updates = Updates()
        self.windows: Windows | None = None
        self._rotation: tuple[object, Rotation] | None = None

    def begin(self, inputs: dict[str, Any] | None) -> None:
        """Finds the windows of the inputs of a model, or forgets those of the batch before."""
        self.windows = self._rotation = None
        if inputs is None or "input_ids" not in inputs:
            return
        positions, mask = inputs.get("position_ids"), inputs.get("attention_mask")
        if positions is None:
            rows, tokens = inputs["input_ids"].shape
            positions = torch.arange(tokens).expand(rows, tokens)
            if mask is not None:
                if bool((mask[:, 1:] > mask[:, :-1]).any()):
                    return  # padded on the left
                positions = positions * mask  # a token of padding attends to itself
        elif mask is not None:
            return
        self.windows = Windows.of(positions)

    def rotation(self, embeddings: tuple[torch.Tensor, torch.Tensor], rows: int) -> Rotation:
        """Returns cosines and sines of all tokens, from those of a row or of all."""
        if self._rotation is None or self._rotation[0] is not embeddings:
            cos, sin = (each.float().expand(rows, -1, -1).flatten(0, 1).contiguous() for each in embeddings)
            self._rotation = embeddings, (cos, sin)
        return self._rotation[1]


class Fused:
    """What replaces the forward of a module: of a whole layer, or of its attention alone."""

    def __init__(self, decoder: Decoder, parts: DecoderLayer, module: nn.Module, batch: Batch) -> None:
        self.module, self._original, self._batch = module, module.forward, batch
        self._heads = Heads(decoder.heads, decoder.key_value_heads, decoder.head_size, parts.scale, parts.window)
        self._weight = parts.attention_norm.module.weight

    def __call__(self, *args: Any, **more: Any) -> Any:
        """Computes what the module does."""
        raise NotImplementedError

    def _dtype(self, cache: object) -> torch.dtype | None:
        """Returns the precision of products; None if the module has to compute itself.

        That is where windows are not known, the kernels lack the precision, weights are elsewhere, or there is a cache.
        """
        weight = self._weight
        if self._batch.windows is None or cache is not None or weight.device.type != "cpu" or is_sharded(self.module):
            return None
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            return dtype if dtype in DTYPES else None
        return torch.float32 if weight.dtype == torch.float32 else None


class FusedAttention(Fused):
    """What replaces the attention of GPT-2; the rest of its layers is few operations already."""

    def __call__(self, hidden_states: torch.Tensor, past_key_values: Any = None, **more: Any) -> Any:
        """Attends; returns the result, (batch, seq, width), and None in place of the weights."""
        module: Any = self.module
        if self._dtype(past_key_values) is None:
            return self._original(hidden_states, past_key_values=past_key_values, **more)
        joined = module.c_attn(hidden_states)
        windows = self._batch.windows
        assert windows is not None
        attended = attend(joined.flatten(0, 1), None, self._heads, windows)
        return module.resid_dropout(module.c_proj(attended.view(hidden_states.shape))), None


class FusedLayer(Fused):
    """What replaces a layer of Llama's kind."""

    def __init__(self, decoder: Decoder, parts: DecoderLayer, module: nn.Module, batch: Batch) -> None:
        """Looks up the parts of a layer.

        Raises:
            UnknownLayerError: If one of them cannot be computed so.
        """
        super().__init__(decoder, parts, module, batch)
        self._gate = _gate(decoder)
        self._parts = parts
        self._query_key_value = JointProducts(parts.query_key_value, batch.updates)
        self._output = JointProducts([parts.attention_output], batch.updates)
        self._up, self._down = JointProducts(parts.up, batch.updates), JointProducts([parts.down], batch.updates)

    def __call__(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        **more: Any,
    ) -> Any:
        """Adds attention and the result of the feed-forward network to hidden states, (batch, seq, width)."""
        dtype = self._dtype(more.get("past_key_values"))
        if dtype is None:
            return self._original(
                hidden_states, attention_mask=attention_mask, position_embeddings=position_embeddings, **more
            )
        with torch.autocast("cpu", enabled=False):
            hidden = hidden_states.flatten(0, 1).float()
            hidden = hidden + self._attended(hidden, position_embeddings, len(hidden_states), dtype)
            up = self._up(_normed(hidden, self._parts.mlp_norm, dtype), dtype)
            down = self._down(gated(up, self._gate), dtype)
            hidden = hidden + _normed(down, self._parts.mlp_output_norm, dtype)
            return hidden.view(hidden_states.shape)

    def _attended(
        self,
        hidden: torch.Tensor,
        embeddings: tuple[torch.Tensor, torch.Tensor] | None,
        rows: int,
        dtype: torch.dtype,
    ) -> torch.Tensor:
        parts, batch = self._parts, self._batch
        assert batch.windows is not None
        joined = self._query_key_value(_normed(hidden, parts.attention_norm, dtype), dtype)
        if parts.query_norm is not None and parts.key_norm is not None:
            heads = self._heads
            sizes = [heads.count * heads.size, heads.shared * heads.size, heads.shared * heads.size]
            query, key, value = joined.split(sizes, dim=-1)
            query = _normed(query.reshape(-1, heads.size), parts.query_norm, dtype).view(query.shape)
            key = _normed(key.reshape(-1, heads.size), parts.key_norm, dtype).view(key.shape)
            joined = torch.cat([query, key, value], dim=-1)
        rotates = parts.rotary is not None and embeddings is not None
        rotation = batch.rotation(embeddings, rows) if rotates and embeddings is not None else None
        attended = self._output(attend(joined, rotation, self._heads, batch.windows), dtype)
        return _normed(attended, parts.attention_output_norm, dtype)


def _normed(states: torch.Tensor, norm: Norm | None, dtype: torch.dtype) -> torch.Tensor:
    if norm is None:
        return states
    return rms_norm(states.float(), norm.module.weight.float() + norm.offset, norm.epsilon, dtype)


def _gate(decoder: Decoder) -> Gate:
    if decoder.is_gated and isinstance(decoder.activation, SiLUActivation | nn.SiLU):
        return Gate.SILU
    if decoder.is_gated and is_tanh_gelu(decoder.activation):
        return Gate.GELU
    raise UnknownLayerError("its activation function is another one")


@contextmanager
def fused_layers(hf_model: "PreTrainedModel", enabled: bool = True) -> Iterator[Batch]:
    """Replaces what the layers of a model compute inside the block, if they were seen to compute the same."""
    batch = Batch()
    parts = _fused(hf_model, batch) if enabled and are_compiled() and hf_model.device.type == "cpu" else []
    before = [vars(part.module).get("forward") for part in parts]
    try:
        for part in parts:
            part.module.forward = part
        if parts and not _compute_the_same(hf_model, batch):
            logger.warning("training with transformers' layers, since the fused ones compute something else")
            _restore(parts, before)
        with batch.updates:
            yield batch
    finally:
        _restore(parts, before)


def _restore(parts: Sequence[Fused], before: Sequence[Any]) -> None:
    for part, forward in zip(parts, before, strict=True):
        vars(part.module).pop("forward", None)
        if forward is not None:
            part.module.forward = forward


@contextmanager
def unfused(hf_model: nn.Module) -> Iterator[None]:
    """Lets the layers of a model compute as transformers' do inside the block."""
    forwards = [vars(module).get("forward") for module in hf_model.modules()]
    parts = [forward for forward in forwards if isinstance(forward, Fused)]
    try:
        for part in parts:
            del part.module.forward
        yield
    finally:
        for part in parts:
            part.module.forward = part


def _fused(hf_model: "PreTrainedModel", batch: Batch) -> list[Fused]:
    """Returns what replaces the forwards of a model's layers; nothing if that is not possible."""
    try:
        decoder = decoder_of(hf_model, with_adapters=True)
        if decoder.attention_cap is not None:
            raise UnknownLayerError("it limits the scores of attention")
        body: Any = hf_model.base_model
        if decoder.rotary_embedding is None:  # GPT-2
            return [
                FusedAttention(decoder, parts, block.attn, batch)
                for parts, block in zip(decoder.layers, body.h, strict=True)
            ]
        return [FusedLayer(decoder, *each, batch) for each in zip(decoder.layers, body.layers, strict=True)]
    except (UnknownDecoderError, UnknownLayerError) as reason:
        logger.debug("training with transformers' layers: %s", reason)
        return []


_TOLERANCES = {torch.float32: 1e-4}
_ROUNDED = 0.05
"""The largest difference of hidden states, relative to the largest one, by dtype of the weights; and in any other."""


@torch.inference_mode()
def _compute_the_same(hf_model: "PreTrainedModel", batch: Batch) -> bool:
    """Compares the hidden states after two random windows in a row."""
    vocabulary = hf_model.config.get_text_config(decoder=True).vocab_size
    positions = torch.cat([torch.arange(7), torch.arange(4)])[None]
    ids = torch.randint(vocabulary, positions.shape, generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "position_ids": positions}

    def hidden() -> torch.Tensor:
        states: torch.Tensor = hf_model.base_model(**inputs, use_cache=False).last_hidden_state
        return states.float()

    is_half = hf_model.dtype != torch.float32  # which fused layers take in mixed precision only
    with evaluation_mode(hf_model), torch.autocast("cpu", torch.bfloat16, enabled=is_half):
        right = hidden()
        batch.begin(inputs)
        fused = hidden()
        batch.begin(None)
    tolerance = _TOLERANCES.get(hf_model.dtype, _ROUNDED)
    return bool((fused - right).abs().max() <= tolerance * right.abs().max())
