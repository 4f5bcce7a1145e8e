"""A layer of a decoder with compiled kernels.

Owns: which layers can be computed so, and the calls. `lean` computes all others with torch.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import nn

from convmodel.generation.engine.kv_cache import LayerCache
from convmodel.hf_model.cached_attention import CachedAttention, HeadNorms
from convmodel.hf_model.decoder import Decoder, DecoderLayer, Norm, is_silu, is_tanh_gelu
from convmodel.hf_model.int8_layers import NativeInt8Linear
from convmodel.hf_model.joint_product import JointProduct, Weights, can_be_joined
from convmodel.hf_model.kernels import LARGEST_HEAD, Before, Function, can_multiply
from convmodel.hf_model.training_kernels import Heads

Rotation = tuple[torch.Tensor, torch.Tensor]


class Attended(NamedTuple):
    """The new tokens of one part of a step, the same number of each row, and what they attend to.

    Attributes:
        layer: Keys and values of the earlier tokens.
        firsts: The first position that the first new token of each row attends to.
        tokens: Where the new tokens are among those of all parts.
    """

    layer: LayerCache
    firsts: torch.Tensor
    tokens: slice


class CompiledBlock:
    """One layer: adds attention and the result of the feed-forward network to hidden states."""

    def __init__(self, decoder: Decoder, layer: DecoderLayer, rotated: int) -> None:
        """Looks up the weights of a decoder that `can_be_compiled`; `rotated` values of each head are rotated."""
        self.rotary, self.window = layer.rotary, layer.window
        self._joint = _product(layer.query_key_value, before_of(layer.attention_norm))
        norms = None
        if layer.query_norm is not None and layer.key_norm is not None:
            query, key = before_of(layer.query_norm), before_of(layer.key_norm)
            assert query.weight is not None
            assert key.weight is not None
            norms = HeadNorms(query.weight, key.weight, query.epsilon)
        counts = decoder.heads, decoder.key_value_heads, decoder.head_size
        heads = Heads(*counts, layer.scale, sliding_window=layer.window, cap=decoder.attention_cap)
        self._shape, self._attention = (heads.kv_count, heads.size), CachedAttention(heads, rotated, norms)
        self._output = _product([layer.attention_output])
        self._up = _product(layer.up, before_of(layer.mlp_norm))
        function = _activation_of(decoder)
        assert function is not None
        self._down = _product([layer.down], Before(function))
        self._output_norm, self._mlp_output_norm = layer.attention_output_norm, layer.mlp_output_norm

    def __call__(
        self,
        hidden: torch.Tensor,
        rotation: Rotation | None,
        parts: Sequence[Attended],
        wanted: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Returns the hidden states after the layer, (tokens, width); of the `wanted` tokens only, if given."""
        states = self._joint(hidden)
        attended = []
        for layer, firsts, tokens in parts:
            turned = None if rotation is None else (rotation[0][tokens], rotation[1][tokens])
            new, position = states[tokens], layer.length
            buffers = layer.extend(len(firsts), len(new) // len(firsts), self._shape)
            attended.append(self._attention(new, turned, buffers, firsts, position))
        joined = attended[0] if len(attended) == 1 else torch.cat(attended)
        if wanted is not None:
            hidden, joined = hidden[wanted], joined[wanted]
        hidden = _added(self._output, joined, hidden, self._output_norm)
        return _added(self._down, self._up(hidden), hidden, self._mlp_output_norm)


def _product(modules: Sequence[Any], before: Before | None = None) -> JointProduct:
    weights = joint_weights(modules)
    assert weights is not None
    return JointProduct(weights, before)


def _added(product: JointProduct, states: torch.Tensor, hidden: torch.Tensor, norm: Norm | None) -> torch.Tensor:
    """Returns hidden states plus a product, to which a norm may be applied."""
    if norm is None:
        return product(states, hidden)
    result: torch.Tensor = norm.module(product(states))
    return hidden + result


def can_be_compiled(decoder: Decoder) -> bool:
    """Returns whether the kernels compute all that the layers of a decoder do, on weights that they can read."""
    groups = [
        group
        for layer in decoder.layers
        for group in (layer.query_key_value, [layer.attention_output], layer.up, [layer.down])
    ]
    norms = [layer.attention_norm for layer in decoder.layers]
    return (
        decoder.head_size <= LARGEST_HEAD
        and _activation_of(decoder) is not None
        and all(joint_weights(group) for group in groups)
        and all(norm.module.weight.dtype == torch.float32 for norm in norms)
    )


def weights_of(module: Any) -> Weights | None:
    """Returns the weights of a layer for a compiled product; None if it takes no such layer."""
    if isinstance(module, NativeInt8Linear):
        return module.weights
    if type(module) is nn.Linear and can_multiply(module.weight):
        return Weights(module.weight, None, module.bias)
    return None


def before_of(norm: Norm) -> Before:
    """Returns a norm as what is applied to activations before a product."""
    module, weight = norm.module, norm.module.weight
    if not norm.is_rms:
        return Before(Function.LAYER_NORM, weight, module.bias, norm.epsilon)
    scale = (norm.offset + weight.float()).to(weight.dtype) if norm.offset else weight
    return Before(Function.RMS_NORM, scale, None, norm.epsilon)


def _activation_of(decoder: Decoder) -> Function | None:
    if is_silu(decoder.activation):
        return Function.GATED_SILU if decoder.is_gated else Function.SILU
    if is_tanh_gelu(decoder.activation):
        return Function.GATED_GELU if decoder.is_gated else Function.GELU
    return None


def joint_weights(modules: Sequence[Any]) -> list[Weights] | None:
    """Returns the weights of layers that have a joint product; None if a compiled product does not take them all."""
    weights = [weights for module in modules if (weights := weights_of(module))]
    return weights if len(weights) == len(modules) and can_be_joined(weights) else None
