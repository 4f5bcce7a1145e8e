"""A decoder's forward pass with as few operations as possible, on the weights of a Hugging Face model.

Owns: the pass itself, for every model whose parts `convmodel.hf_model.decoder` knows. Weights are used in place, not
copied. The order of operations is transformers'.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional
from transformers.activations import FastGELUActivation, GELUTanh, NewGELUActivation
from transformers.pytorch_utils import Conv1D

from convmodel.generation.engine.kv_cache import KVCache, LayerCache
from convmodel.hf_model.decoder import Decoder, DecoderLayer, Norm

Function = Callable[[torch.Tensor], torch.Tensor]
Rotation = tuple[torch.Tensor, torch.Tensor]


class NewTokens(NamedTuple):
    """New tokens of some sequences, the same number of each, and what came before them.

    Attributes:
        ids: Token ids, (rows, tokens).
        types: Token types, of the same shape; None for a model without them.
        positions: Positions in the sequences, of the same shape.
        cache: Keys and values of the earlier tokens; those of the new tokens are appended.
    """

    ids: torch.Tensor
    types: torch.Tensor | None
    positions: torch.Tensor
    cache: KVCache


class LeanForward:
    """Computes the logits of a decoder in evaluation mode.

    Attributes:
        layers: How many layers a cache needs.
    """

    def __init__(self, decoder: Decoder) -> None:
        """Looks up the weights once."""
        self.layers = len(decoder.layers)
        self._decoder = decoder
        self._blocks = [_Block(decoder, layer) for layer in decoder.layers]
        self._norm, self._head = _norm(decoder.norm), _product(decoder.head)

    def __call__(self, parts: Sequence[NewTokens]) -> torch.Tensor:
        """Processes new tokens; see `convmodel.generation.engine.forward.Forward`.

        All tokens are in one row for all matrix products, which load each weight once; only attention is computed part
        by part.
        """
        decoder, device = self._decoder, parts[0].ids.device
        ids, positions = _flat([part.ids for part in parts]), _flat([part.positions for part in parts])
        hidden = decoder.embedding(ids)
        if decoder.position_embedding is not None:
            hidden = hidden + decoder.position_embedding(positions)
        if types := [part.types for part in parts if part.types is not None]:
            hidden = hidden + decoder.embedding(_flat(types))
        kinds, windows = {block.rotary for block in self._blocks}, {block.window for block in self._blocks}
        rotations = {kind: self._rotation(hidden, positions, kind) for kind in kinds}
        shapes = [part.ids.shape for part in parts]
        views = {
            window: [_View.of(part.cache, shape[1], window, device) for part, shape in zip(parts, shapes, strict=True)]
            for window in windows
        }
        for number, block in enumerate(self._blocks):
            layers = [part.cache.layers[number] for part in parts]
            attending = [*zip(shapes, views[block.window], layers, strict=True)]
            hidden = block(hidden, rotations[block.rotary], attending)
        last = [each.view(*shape, -1)[:, -1] for each, shape in zip(_split(hidden, shapes), shapes, strict=True)]
        return _capped(self._head(self._norm(_joined(last))), decoder.logit_cap)

    def _rotation(
        self, hidden: torch.Tensor, positions: torch.Tensor, arguments: tuple[Any, ...] | None
    ) -> Rotation | None:
        """Returns cosines and signed sines, each of shape (tokens, 1, rotated part of a head)."""
        if arguments is None:
            return None
        cos, sin = self._decoder.rotary_embedding(hidden, positions[None], *arguments)
        first, second = sin[0].chunk(2, dim=-1)
        return cos[0, :, None], torch.cat((-first, second), dim=-1)[:, None]


def _flat(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    return parts[0].reshape(-1) if len(parts) == 1 else torch.cat([part.reshape(-1) for part in parts])


def _joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat([*parts])


def _split(states: torch.Tensor, shapes: Sequence[torch.Size]) -> Sequence[torch.Tensor]:
    """Splits tokens into those of parts with given numbers of rows and tokens."""
    return (states,) if len(shapes) == 1 else states.split([rows * new for rows, new in shapes])


Attending = Sequence[tuple[torch.Size, "_View", LayerCache]]
"""For each part: the number of rows and of new tokens, what they attend to, and their keys and values."""


class _Block:
    """One layer: adds attention and the result of the feed-forward network to hidden states."""

    def __init__(self, decoder: Decoder, layer: DecoderLayer) -> None:
        self.rotary, self.window = layer.rotary, layer.window
        self._size = decoder.head_size
        self._counts = [decoder.heads, decoder.key_value_heads, decoder.key_value_heads]
        self._scale, self._cap = layer.scale, decoder.attention_cap
        self._is_gated, self._activation = decoder.is_gated, _activation(decoder.activation)
        self._attention_norm, self._mlp_norm = _norm(layer.attention_norm), _norm(layer.mlp_norm)
        self._query_key_value = [_product(module) for module in layer.query_key_value]
        self._query_norm, self._key_norm = _norm(layer.query_norm), _norm(layer.key_norm)
        self._output, self._output_norm = _product(layer.attention_output), _norm(layer.attention_output_norm)
        self._up, self._down = [_product(module) for module in layer.up], _product(layer.down)
        self._mlp_output_norm = _norm(layer.mlp_output_norm)

    def __call__(self, hidden: torch.Tensor, rotation: Rotation | None, attending: Attending) -> torch.Tensor:
        query, key, value = self._project(self._attention_norm(hidden))
        query, key = self._query_norm(query), self._key_norm(key)
        if rotation is not None:
            query, key = _rotated(query, *rotation), _rotated(key, *rotation)
        shapes = [shape for shape, *_ in attending]
        attended = []
        for states, (shape, view, layer) in zip(
            zip(*(_split(each, shapes) for each in (query, key, value)), strict=True), attending, strict=True
        ):
            new_query, new_key, new_value = (each.view(*shape, *each.shape[1:]).transpose(1, 2) for each in states)
            keys, values = layer.update(new_key, new_value)
            result = view.attend(new_query, keys, values, self._scale, self._cap)
            attended.append(result.transpose(1, 2).reshape(shape.numel(), -1))
        hidden = hidden + self._output_norm(self._output(_joined(attended)))
        return hidden + self._mlp_output_norm(self._down(self._activated(self._mlp_norm(hidden))))

    def _project(self, states: torch.Tensor) -> Iterable[torch.Tensor]:
        """Returns queries, keys and values, each of shape (tokens, heads, head size)."""
        parts = [product(states) for product in self._query_key_value]
        if len(parts) == 1:
            parts = list(parts[0].split([count * self._size for count in self._counts], dim=-1))
        return (part.view(-1, count, self._size) for part, count in zip(parts, self._counts, strict=True))

    def _activated(self, states: torch.Tensor) -> torch.Tensor:
        parts = [product(states) for product in self._up]
        if not self._is_gated:
            return self._activation(parts[0])
        gate, up = parts if len(parts) > 1 else parts[0].chunk(2, dim=-1)
        return self._activation(gate).mul_(up)


@dataclass(frozen=True, slots=True)
class _View:
    """Which positions the new tokens attend to, in layers with the same window.

    Attributes:
        first: The first position that any of them attends to.
        mask: Whether each attends to each position from there, (rows or 1, 1, new or 1, positions); None if all do.
        is_causal: Whether, instead of a mask, each attends to those before it and itself.
    """

    first: int
    mask: torch.Tensor | None
    is_causal: bool

    @classmethod
    def of(cls, cache: KVCache, new: int, window: int | None, device: torch.device) -> "_View":
        """Returns the view of `new` tokens on the positions of a cache and their own."""
        end, padding = cache.length + new, cache.mask(new)
        first = 0 if window is None else max(0, cache.length + 1 - window)
        is_limited = window is not None and window < end
        if new > 1 and not cache.length and padding is None and not is_limited:
            return cls(0, None, is_causal=True)
        mask = None if padding is None else padding.bool()[:, None, None, first:]
        if new > 1:
            positions = torch.arange(first, end, device=device)
            own = torch.arange(cache.length, end, device=device)[:, None]
            causal = positions <= own
            if window is not None and is_limited:
                causal &= positions > own - window
            mask = causal if mask is None else causal & mask
        return cls(first, mask, is_causal=False)

    def attend(
        self, query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, scale: float, cap: float | None
    ) -> torch.Tensor:
        """Computes attention, where consecutive heads may share keys and values (arXiv:2305.13245).

        The query has the shape (rows, heads, new, size), keys and values (rows, shared heads, positions, size).
        """
        if self.first:
            keys, values = keys[:, :, self.first :], values[:, :, self.first :]
        rows, heads, new, size = query.shape
        shared = keys.shape[1]
        if cap is not None:
            scores = query.reshape(rows, shared, -1, size) @ keys.transpose(2, 3) * scale
            scores = _capped(scores, cap).view(rows, heads, new, -1)
            if new > 1 and self.mask is None:
                scores = scores.masked_fill(torch.ones(new, new, dtype=torch.bool).triu(1), -torch.inf)
            elif self.mask is not None:
                scores = scores.masked_fill(~self.mask, -torch.inf)
            weights = scores.softmax(-1, dtype=torch.float32).to(query.dtype).view(rows, shared, -1, keys.shape[2])
            return (weights @ values).view(rows, heads, new, size)
        if new == 1:  # the queries that share keys are as if they were of several tokens: nothing is copied
            query = query.reshape(rows, shared, heads // shared, size)
        attended = functional.scaled_dot_product_attention(
            query, keys, values, self.mask, is_causal=self.is_causal, scale=scale, enable_gqa=new > 1 and heads > shared
        )
        return attended.view(rows, heads, new, size) if new == 1 else attended


def _rotated(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotates pairs of the values of each head, (tokens, heads, head size), or of its first part.

    Su et al. 2021, arXiv:2104.09864, with halves in place of neighbours as pairs.
    """
    size = cos.shape[-1]
    if size < states.shape[-1]:
        return torch.cat((_rotated(states[..., :size], cos, sin), states[..., size:]), dim=-1)
    return torch.addcmul(states * cos, states.roll(size // 2, -1), sin)


def _capped(values: torch.Tensor, cap: float | None) -> torch.Tensor:
    return values if cap is None else torch.tanh(values / cap) * cap


def _norm(norm: Norm | None) -> Function:
    if norm is None:
        return lambda states: states
    module, weight = norm.module, norm.module.weight
    if norm.is_rms:
        epsilon = getattr(module, "variance_epsilon", None) or module.eps
        scale, shape = (1.0 + weight.float()).to(weight.dtype) if norm.offset else weight, weight.shape
        return lambda states: functional.rms_norm(states, shape, scale, epsilon)
    return lambda states: functional.layer_norm(states, module.normalized_shape, weight, module.bias, module.eps)


def _activation(module: Any) -> Function:
    if isinstance(module, NewGELUActivation | FastGELUActivation | GELUTanh):  # in one operation
        return lambda states: functional.gelu(states, approximate="tanh")
    function: Function = module.forward
    return function


def _product(module: Any) -> Function:
    if isinstance(module, Conv1D):
        conv_weight, conv_bias = module.weight, module.bias
        return lambda states: torch.addmm(conv_bias, states, conv_weight)
    if type(module) is nn.Linear:
        weight, bias = module.weight, module.bias
        return lambda states: functional.linear(states, weight, bias)
    packed: Function = module.forward
    return packed
