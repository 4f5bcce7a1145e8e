"""A decoder's forward pass with as few operations as possible, on the weights of a Hugging Face model.

Owns: the pass itself, for every model whose parts `convmodel.hf_model.decoder` knows. Weights are used in place, not
copied. The order of operations is transformers'.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from convmodel.generation.engine.attention import View, capped
from convmodel.generation.engine.compiled import (
    Attended,
    CompiledBlock,
    Rotation,
    before_of,
    can_be_compiled,
    joint_weights,
    weights_of,
)
from convmodel.generation.engine.kv_cache import KVCache, LayerCache
from convmodel.hf_model.cached_attention import can_attend_several
from convmodel.hf_model.decoder import Decoder, DecoderLayer, Norm, is_tanh_gelu
from convmodel.hf_model.joint_product import JointProduct

Function = Callable[[torch.Tensor], torch.Tensor]


_Rotations = Mapping[Any, Rotation | None]
"""Cosines and signed sines for each kind of layer; None where nothing is rotated."""


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

    shares_weights = True

    def __init__(self, decoder: Decoder) -> None:
        """Looks up the weights once."""
        self.layers = len(decoder.layers)
        self._decoder = decoder
        self._blocks = [_Block(decoder, layer) for layer in decoder.layers]
        self._kinds, self._windows = ({getattr(each, n) for each in decoder.layers} for n in ("rotary", "window"))
        self._head = _normed_products(decoder.norm, [decoder.head])
        self._can_be_compiled = can_be_compiled(decoder)
        self._compiled: list[CompiledBlock] = []  # made when they are needed

    def __call__(self, parts: Sequence[NewTokens]) -> torch.Tensor:
        """Processes new tokens; see `convmodel.generation.engine.forward.Forward`.

        All tokens are in one row for all matrix products, which load each weight once; only attention is computed part
        by part.
        """
        decoder = self._decoder
        ids, positions = _flat([part.ids for part in parts]), _flat([part.positions for part in parts])
        hidden = decoder.embedding(ids)
        if decoder.position_embedding is not None:
            hidden = hidden + decoder.position_embedding(positions)
        if types := [part.types for part in parts if part.types is not None]:
            hidden = hidden + decoder.embedding(_flat(types))
        rotations = {kind: self._rotation(hidden, positions, kind) for kind in self._kinds}
        is_step = all(part.ids.shape[1] == 1 for part in parts)
        is_compiled = self._can_be_compiled and (is_step or can_attend_several())
        compute = self._process_compiled if is_compiled else self._process
        [logits] = self._head(compute(hidden, rotations, parts))
        return capped(logits, decoder.logit_cap)

    def _process(self, hidden: torch.Tensor, rotations: _Rotations, parts: Sequence[NewTokens]) -> torch.Tensor:
        """Returns the hidden states of the last token of each row, (rows of all parts, width)."""
        shapes = [part.ids.shape for part in parts]
        views = {
            window: [View.of(part.cache, part.ids.shape[1], window, hidden.device) for part in parts]
            for window in self._windows
        }
        for number, block in enumerate(self._blocks):
            layers = [part.cache.layers[number] for part in parts]
            attending = [*zip(shapes, views[block.window], layers, strict=True)]
            hidden = block(hidden, rotations[block.rotary], attending)
        last = [each.view(*shape, -1)[:, -1] for each, shape in zip(_split(hidden, shapes), shapes, strict=True)]
        return _joined(last)

    def _process_compiled(
        self, hidden: torch.Tensor, rotations: _Rotations, parts: Sequence[NewTokens]
    ) -> torch.Tensor:
        """Does the same with compiled kernels."""
        flat = {kind: turn and (turn[0].flatten(1), turn[1].flatten(1)) for kind, turn in rotations.items()}
        if not self._compiled:
            sizes = {kind: 0 if turn is None else turn[0].shape[1] for kind, turn in flat.items()}
            self._compiled = [CompiledBlock(self._decoder, each, sizes[each.rotary]) for each in self._decoder.layers]
        firsts = {window: [_first_positions(part.cache, window) for part in parts] for window in self._windows}
        ends = [*accumulate(part.ids.numel() for part in parts)]
        tokens = [slice(begin, end) for begin, end in zip([0, *ends], ends, strict=False)]
        last = None  # the last token of each row, which alone is needed after the last layer's attention
        if any(part.ids.shape[1] > 1 for part in parts):
            ends_of_rows = zip(tokens, (part.ids.shape[1] for part in parts), strict=True)
            last = torch.cat([torch.arange(at.start + new - 1, at.stop, new) for at, new in ends_of_rows])
        for number, block in enumerate(self._compiled):
            layers = [part.cache.layers[number] for part in parts]
            attended = [Attended(*each) for each in zip(layers, firsts[block.window], tokens, strict=True)]
            hidden = block(hidden, flat[block.rotary], attended, last if block is self._compiled[-1] else None)
        return hidden

    def _rotation(
        self, hidden: torch.Tensor, positions: torch.Tensor, arguments: tuple[Any, ...] | None
    ) -> Rotation | None:
        """Returns cosines and signed sines, each of shape (tokens, 1, rotated part of a head)."""
        if arguments is None:
            return None
        cos, sin = self._decoder.rotary_embedding(hidden, positions[None], *arguments)
        first, second = sin[0].chunk(2, dim=-1)
        return cos[0, :, None], torch.cat((-first, second), dim=-1)[:, None]


def _first_positions(cache: KVCache, window: int | None) -> torch.Tensor:
    """Returns the first position that the next token of each row attends to."""
    least = 0 if window is None else cache.length + 1 - window
    return torch.tensor([max(start, least) for start in cache.starts])


def _flat(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    return parts[0].reshape(-1) if len(parts) == 1 else torch.cat([part.reshape(-1) for part in parts])


def _joined(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    return parts[0] if len(parts) == 1 else torch.cat([*parts])


def _split(states: torch.Tensor, shapes: Sequence[torch.Size]) -> Sequence[torch.Tensor]:
    """Splits tokens into those of parts with given numbers of rows and tokens."""
    return (states,) if len(shapes) == 1 else states.split([rows * new for rows, new in shapes])


Attending = Sequence[tuple[torch.Size, View, LayerCache]]
"""For each part: the number of rows and of new tokens, what they attend to, and their keys and values."""


class _Block:
    """One layer: adds attention and the result of the feed-forward network to hidden states."""

    def __init__(self, decoder: Decoder, layer: DecoderLayer) -> None:
        self.rotary, self.window = layer.rotary, layer.window
        self._size = decoder.head_size
        self._counts = [decoder.heads, decoder.key_value_heads, decoder.key_value_heads]
        self._scale, self._cap = layer.scale, decoder.attention_cap
        self._is_gated, self._activation = decoder.is_gated, _activation(decoder.activation)
        self._query_key_value = _normed_products(layer.attention_norm, layer.query_key_value)
        self._query_norm, self._key_norm = _norm(layer.query_norm), _norm(layer.key_norm)
        self._output, self._output_norm = _product(layer.attention_output), _norm(layer.attention_output_norm)
        self._up, self._down = _normed_products(layer.mlp_norm, layer.up), _product(layer.down)
        self._mlp_output_norm = _norm(layer.mlp_output_norm)

    def __call__(self, hidden: torch.Tensor, rotation: Rotation | None, attending: Attending) -> torch.Tensor:
        query, key, value = self._project(hidden)
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
        return hidden + self._mlp_output_norm(self._down(self._activated(hidden)))

    def _project(self, hidden: torch.Tensor) -> Iterable[torch.Tensor]:
        """Returns queries, keys and values, each of shape (tokens, heads, head size)."""
        parts = self._query_key_value(hidden)
        if len(parts) == 1:
            parts = parts[0].split([count * self._size for count in self._counts], dim=-1)
        return (part.reshape(-1, count, self._size) for part, count in zip(parts, self._counts, strict=True))

    def _activated(self, hidden: torch.Tensor) -> torch.Tensor:
        parts = self._up(hidden)
        if not self._is_gated:
            return self._activation(parts[0])
        gate, up = parts if len(parts) > 1 else parts[0].chunk(2, dim=-1)
        return self._activation(gate).mul_(up)


def _rotated(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotates pairs of the values of each head, (tokens, heads, head size), or of its first part.

    Su et al. 2021, arXiv:2104.09864, with halves in place of neighbours as pairs.
    """
    size = cos.shape[-1]
    if size < states.shape[-1]:
        return torch.cat((_rotated(states[..., :size], cos, sin), states[..., size:]), dim=-1)
    return torch.addcmul(states * cos, states.roll(size // 2, -1), sin)


def _norm(norm: Norm | None) -> Function:
    if norm is None:
        return lambda states: states
    module, weight = norm.module, norm.module.weight
    if norm.is_rms:
        _, scale, _, epsilon = before_of(norm)
        return lambda states: functional.rms_norm(states, weight.shape, scale, epsilon)
    return lambda states: functional.layer_norm(states, weight.shape, weight, module.bias, module.eps)


def _normed_products(norm: Norm, modules: Sequence[Any]) -> Callable[[torch.Tensor], Sequence[torch.Tensor]]:
    """Returns a function that applies a norm to states and multiplies them with the weights of some layers."""
    normed, products = _norm(norm), [_product(module) for module in modules]

    def one_by_one(states: torch.Tensor) -> Sequence[torch.Tensor]:
        states = normed(states)
        return [product(states) for product in products]

    weights = joint_weights(modules)
    if weights is None or norm.module.weight.dtype != torch.float32:
        return one_by_one
    sizes, joint = [len(each.rows) for each in weights], JointProduct(weights, before_of(norm))
    return lambda states: joint(states).split(sizes, dim=-1)


def _activation(module: Any) -> Function:
    if is_tanh_gelu(module):  # in one operation
        return lambda states: functional.gelu(states, approximate="tanh")
    function: Function = module.forward
    return function


def _product(module: Any) -> Function:
    usual = _usual_product(module)
    if (weights := weights_of(module)) is None:
        return usual
    compiled = JointProduct([weights])
    return lambda states: (compiled if states.dtype == torch.float32 else usual)(states)


def _usual_product(module: Any) -> Function:
    if isinstance(module, Conv1D):
        conv_weight, conv_bias = module.weight, module.bias
        return lambda states: torch.addmm(conv_bias, states, conv_weight)
    if type(module) is nn.Linear:
        weight, bias = module.weight, module.bias
        return lambda states: functional.linear(states, weight, bias)
    packed: Function = module.forward
    return packed
