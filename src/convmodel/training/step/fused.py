"""Decoder layers in training on a CPU, with compiled norms, attention and activations.

Owns: which models get them, comparing them with transformers' layers at the start, and the windows of a batch, to which
attention is restricted. Layers keep their modules and parameters: only their `forward` is replaced.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from convmodel.hf_model.caching import cache_among
from convmodel.hf_model.decoder import (
    Decoder,
    DecoderLayer,
    Norm,
    UnknownDecoderError,
    decoder_of,
    is_silu,
    is_tanh_gelu,
)
from convmodel.hf_model.eval_mode import evaluation_mode
from convmodel.hf_model.training_kernels import (
    DTYPES,
    Activation,
    Heads,
    Rotation,
    Windows,
    are_compiled,
    attend,
    glu,
    rms_norm,
)
from convmodel.layout.architecture import window_length
from convmodel.training.sharding import is_sharded
from convmodel.training.step.products import JointProducts, OptimizerSteps, UnknownLayerError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)


class Batch:
    """What fused layers need to know about the current batch.

    Attributes:
        is_used: Whether any layer is fused.
        windows: The windows of the batch; None to fall back to transformers' layers.
        steps: Counts optimizer steps.
    """

    def __init__(self) -> None:
        self.is_used = False
        self.steps = OptimizerSteps()
        self.windows: Windows | None = None
        self._rotation: tuple[object, Rotation] | None = None

    def begin(self, inputs: dict[str, Any] | None) -> None:
        """Finds the windows of a model's inputs, in place of those of the previous batch; None for no inputs."""
        self.windows = self._rotation = None
        if not self.is_used or inputs is None or "input_ids" not in inputs:
            return
        positions, mask, shape = inputs.get("position_ids"), inputs.get("attention_mask"), inputs["input_ids"].shape
        if positions is None:
            positions = torch.arange(shape[1]).expand(shape)
            if mask is not None:
                if mask.shape != shape or bool((mask[:, 1:] > mask[:, :-1]).any()):
                    return  # not a mask of padding on the right: transformers' layers handle it
                positions = positions * mask  # a token of padding attends to itself
        elif mask is not None:
            return
        positions = positions.expand(shape)
        self.windows = Windows.of(positions)

    def rotation(self, embeddings: tuple[torch.Tensor, torch.Tensor], rows: int) -> Rotation:
        """Returns cosines and sines of all tokens, from those of one row for all or of each row."""
        if self._rotation is None or self._rotation[0] is not embeddings:
            cos, sin = (each.float().expand(rows, -1, -1).flatten(0, 1).contiguous() for each in embeddings)
            self._rotation = embeddings, (cos, sin)
        return self._rotation[1]


class Fused(ABC):
    """Replaces the forward of a module: of a whole layer, or of its attention alone."""

    def __init__(self, decoder: Decoder, parts: DecoderLayer, module: nn.Module, batch: Batch) -> None:
        self.module, self.before, self._batch = module, vars(module).get("forward"), batch
        self._original = module.forward
        self._dropouts = [each for each in module.modules() if isinstance(each, nn.Dropout)]
        self._heads = Heads(decoder.heads, decoder.key_value_heads, decoder.head_size, parts.scale, parts.window)
        self._weight = parts.attention_norm.module.weight

    @abstractmethod
    def __call__(self, hidden_states: torch.Tensor, *args: Any, **more: Any) -> Any:
        """Computes what the module's own forward does."""

    def _dtype(self, cache: object) -> torch.dtype | None:
        """Returns the dtype of matrix products, or None to fall back to the original forward.

        It falls back if windows are unknown, with a cache or dropout, if the kernels lack the dtype, or if weights are
        sharded or not on the CPU.
        """
        weight, module = self._weight, self.module
        if self._batch.windows is None or cache is not None or weight.device.type != "cpu" or is_sharded(module):
            return None
        if module.training and any(dropout.p for dropout in self._dropouts):
            return None
        if torch.is_autocast_enabled("cpu"):
            dtype = torch.get_autocast_dtype("cpu")
            return dtype if dtype in DTYPES else None
        return torch.float32 if weight.dtype == torch.float32 else None


class FusedAttention(Fused):
    """Replaces the attention of GPT-2; the rest of its layers takes few operations anyway."""

    def __init__(self, decoder: Decoder, parts: DecoderLayer, module: Any, batch: Batch) -> None:
        super().__init__(decoder, parts, module, batch)
        self._dropouts = [module.attn_dropout]  # the residual dropout is applied as a module

    def __call__(self, hidden_states: torch.Tensor, **more: Any) -> Any:
        """Attends; returns the result, (batch, seq, width), and None in place of the weights."""
        module: Any = self.module
        if self._dtype(cache_among(more)) is None:
            return self._original(hidden_states, **more)
        qkv = module.c_attn(hidden_states)
        windows = self._batch.windows
        assert windows is not None
        attended = attend(qkv.flatten(0, 1), None, self._heads, windows)
        return module.resid_dropout(module.c_proj(attended.view(hidden_states.shape))), None


class FusedLayer(Fused):
    """Replaces a Llama-style decoder layer."""

    def __init__(self, decoder: Decoder, parts: DecoderLayer, module: nn.Module, batch: Batch) -> None:
        """Looks up the parts of a layer.

        Raises:
            UnknownLayerError: If the kernels do not support one of them.
        """
        super().__init__(decoder, parts, module, batch)
        if any(_is_changed(each) for each in module.modules() if each is not module):
            raise UnknownLayerError("parts of its layers have hooks, or a forward of their own")
        self._activation = _activation(decoder)
        self._parts = parts
        groups = parts.query_key_value, [parts.attention_output], parts.up, [parts.down]
        self.products = [JointProducts(group, batch.steps) for group in groups]

    def __call__(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        position_embeddings: tuple[torch.Tensor, torch.Tensor] | None = None,
        **more: Any,
    ) -> Any:
        """Adds attention and the result of the feed-forward network to hidden states, (batch, seq, width)."""
        dtype, module, batch = self._dtype(cache_among(more)), self.module, self._batch
        if dtype is None or batch.windows is None or any(products.are_merged for products in self.products):
            return self._original(
                hidden_states, attention_mask=attention_mask, position_embeddings=position_embeddings, **more
            )
        rotation = None
        if self._parts.rotary is not None and position_embeddings is not None:
            rotation = batch.rotation(position_embeddings, len(hidden_states))
        compute = partial(self._compute, windows=batch.windows, rotation=rotation, dtype=dtype)
        if module.training and getattr(module, "gradient_checkpointing", False):
            # That of transformers wraps the original forward.
            checkpoint: Any = module._gradient_checkpointing_func
            return checkpoint(compute, hidden_states)
        return compute(hidden_states)

    def _compute(
        self, hidden_states: torch.Tensor, windows: Windows, rotation: Rotation | None, dtype: torch.dtype
    ) -> torch.Tensor:
        parts, (_, _, up, down) = self._parts, self.products
        with torch.autocast("cpu", enabled=False):
            hidden = hidden_states.flatten(0, 1).float()
            hidden = hidden + self._attended(hidden, windows, rotation, dtype)
            activated = glu(up(_normed(hidden, parts.mlp_norm, dtype), dtype), self._activation)
            hidden = hidden + _normed(down(activated, dtype), parts.mlp_output_norm, dtype)
            return hidden.view(hidden_states.shape)

    def _attended(
        self, hidden: torch.Tensor, windows: Windows, rotation: Rotation | None, dtype: torch.dtype
    ) -> torch.Tensor:
        parts, heads, (query_key_value, output, _, _) = self._parts, self._heads, self.products
        qkv = query_key_value(_normed(hidden, parts.attention_norm, dtype), dtype)
        if parts.query_norm is not None and parts.key_norm is not None:
            sizes = [heads.count * heads.size, heads.kv_count * heads.size, heads.kv_count * heads.size]
            query, key, value = qkv.split(sizes, dim=-1)
            query = _normed(query.reshape(-1, heads.size), parts.query_norm, dtype).view(query.shape)
            key = _normed(key.reshape(-1, heads.size), parts.key_norm, dtype).view(key.shape)
            qkv = torch.cat([query, key, value], dim=-1)
        attended = output(attend(qkv, rotation, heads, windows), dtype)
        return _normed(attended, parts.attention_output_norm, dtype)


def _is_changed(module: nn.Module) -> bool:
    """Returns whether a submodule that a fused layer bypasses has hooks or a patched forward."""
    hooks = (module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks)
    return any(hooks) or hasattr(module, "_hf_hook") or "forward" in vars(module)


def _normed(states: torch.Tensor, norm: Norm | None, dtype: torch.dtype) -> torch.Tensor:
    if norm is None:
        return states
    return rms_norm(states.float(), norm.module.weight.float() + norm.offset, norm.epsilon, dtype)


def _activation(decoder: Decoder) -> Activation:
    if decoder.is_gated and is_silu(decoder.activation):
        return Activation.SILU
    if decoder.is_gated and is_tanh_gelu(decoder.activation):
        return Activation.GELU
    raise UnknownLayerError("its activation function is neither SiLU nor tanh GELU, gated")


@contextmanager
def fused_layers(hf_model: "PreTrainedModel", enabled: bool = True) -> Iterator[Batch]:
    """Replaces the layers' forwards inside the block, if their outputs equal those of the original ones."""
    batch = Batch()
    parts = _fused(hf_model, batch) if enabled and are_compiled() and hf_model.device.type == "cpu" else []
    try:
        for part in parts:
            part.module.forward = part
        if parts and _outputs_are_equal(hf_model, batch):
            batch.is_used = True
        elif parts:
            logger.warning("training with transformers' layers, since the outputs of the fused ones differ")
            _restore(parts)
        with batch.steps:
            yield batch
    finally:
        _restore(parts)


def _restore(parts: Sequence[Fused]) -> None:
    for part in parts:
        vars(part.module).pop("forward", None)
        if part.before is not None:
            part.module.forward = part.before


def _parts_of(hf_model: nn.Module) -> list[Fused]:
    forwards = [vars(module).get("forward") for module in hf_model.modules()]
    return [forward for forward in forwards if isinstance(forward, Fused)]


@contextmanager
def unfused(hf_model: nn.Module) -> Iterator[None]:
    """Restores the original forwards inside the block."""
    parts = _parts_of(hf_model)
    try:
        _restore(parts)
        yield
    finally:
        for part in parts:
            part.module.forward = part


def converted_bytes(hf_model: nn.Module) -> int:
    """Returns the size of the weights that fused layers keep in another precision."""
    layers = [part for part in _parts_of(hf_model) if isinstance(part, FusedLayer)]
    return sum(products.converted_bytes for layer in layers for products in layer.products)


def _fused(hf_model: "PreTrainedModel", batch: Batch) -> list[Fused]:
    """Returns what replaces the forwards of a model's layers; nothing if that is not possible."""
    try:
        decoder = decoder_of(hf_model, for_training=True)
        if decoder.attention_cap is not None:
            raise UnknownLayerError("it soft-caps attention scores")
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
"""The largest difference of hidden states, relative to their largest value: by dtype of the weights, or for others."""

_TRIAL_TOKENS = (7, 40)
"""The tokens of two windows that are packed into one row."""


@torch.inference_mode()
def _outputs_are_equal(hf_model: "PreTrainedModel", batch: Batch) -> bool:
    """Compares the hidden states of two random windows that are packed into one row."""
    vocabulary = hf_model.config.get_text_config(decoder=True).vocab_size
    limit = window_length(hf_model.config)
    positions = torch.cat([torch.arange(min(tokens, limit)) for tokens in _TRIAL_TOKENS])[None]
    ids = torch.randint(vocabulary, positions.shape, generator=torch.Generator().manual_seed(0))
    inputs = {"input_ids": ids, "position_ids": positions}

    def hidden() -> torch.Tensor:
        states: torch.Tensor = hf_model.base_model(**inputs, use_cache=False).last_hidden_state
        return states.float()

    is_low_precision = hf_model.dtype != torch.float32  # fused layers then need autocast
    with evaluation_mode(hf_model), torch.autocast("cpu", torch.bfloat16, enabled=is_low_precision):
        expected = hidden()
        batch.is_used = True
        batch.begin(inputs)
        try:
            fused = hidden()
        except (AttributeError, RuntimeError, TypeError, ValueError) as error:
            logger.debug("the fused layers raised: %s", error)
            return False
        finally:
            batch.begin(None)
            batch.is_used = False
    if not expected.isfinite().all():
        return True  # the first step reports what is wrong with the weights
    tolerance = _TOLERANCES.get(hf_model.dtype, _ROUNDED)
    return bool((fused - expected).abs().max() <= tolerance * expected.abs().max())
