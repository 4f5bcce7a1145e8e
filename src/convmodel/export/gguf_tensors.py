"""A model's weights as the tensors of a GGUF file.

Owns: their names, the order of rows that llama.cpp expects, and the data types that they are written in. Knows
no vocabulary and no metadata.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers.pytorch_utils import Conv1D

from convmodel.errors import ConfigError
from convmodel.export.gguf_architecture import Shape, rotary_factors
from convmodel.export.options import UNQUANTIZED
from convmodel.hf_model.decoder import DecoderLayer, Norm

if TYPE_CHECKING:
    from gguf import GGMLQuantizationType

_BLOCK = 32  # columns that share a scale
_CHUNK = 1 << 22  # weights that are converted at a time, because that needs copies of them


@dataclass(frozen=True, slots=True)
class Tensor:
    """A weight under llama.cpp's name.

    Attributes:
        name: Its name.
        shape: Its shape; that of a matrix is (outputs, inputs).
        read: Returns the values.
        is_matrix: Whether it may be rounded. Norms, biases and position embeddings stay float32.
        is_table: Whether it is the token embedding or the head, which are more sensitive to rounding than the others.
    """

    name: str
    shape: tuple[int, ...]
    read: Callable[[], torch.Tensor]
    is_matrix: bool = False
    is_table: bool = False


def tensors_of(shape: Shape) -> list[Tensor]:
    """Returns all weights of a model.

    Raises:
        ConfigError: If it has one that llama.cpp does not read.
    """
    decoder = shape.decoder
    if getattr(decoder.head, "bias", None) is not None:
        raise ConfigError("this model cannot be exported to GGUF: its head has a bias, which llama.cpp does not read")
    tensors = [_table("token_embd.weight", decoder.embedding)]
    if decoder.position_embedding is not None:
        tensors.append(_vector("position_embd.weight", decoder.position_embedding.weight))
    tensors += [_vector(name, values) for name, values in rotary_factors(shape).items()]
    for number, layer in enumerate(decoder.layers):
        tensors += [replace(part, name=f"blk.{number}.{part.name}") for part in _layer(layer, shape)]
    tensors += _norm("output_norm", decoder.norm)
    if decoder.head.weight.data_ptr() != decoder.embedding.weight.data_ptr():  # llama.cpp takes the embedding itself
        tensors.append(_table("output.weight", decoder.head))
    return tensors


def _table(name: str, module: Any) -> Tensor:
    return Tensor(name, tuple(module.weight.shape), lambda: module.weight, is_matrix=True, is_table=True)


def _vector(name: str, values: torch.Tensor) -> Tensor:
    return Tensor(name, tuple(values.shape), lambda: values)


def _layer(layer: DecoderLayer, shape: Shape) -> Iterator[Tensor]:
    """Yields the weights of a layer."""
    decoder = shape.decoder
    yield from _norm("attn_norm", layer.attention_norm)
    if len(layer.query_key_value) == 1:
        yield from _linear("attn_qkv", layer.query_key_value[0])
    else:
        heads = (decoder.heads, decoder.key_value_heads, None)
        for name, module, count in zip("qkv", layer.query_key_value, heads, strict=True):
            rotated = count if shape.architecture.rotates_neighbors else None
            yield from _linear(f"attn_{name}", module, rotated_heads=rotated)
    yield from _norm("attn_q_norm", layer.query_norm)
    yield from _norm("attn_k_norm", layer.key_norm)
    yield from _linear("attn_output", layer.attention_output)
    yield from _norm("post_attention_norm", layer.attention_output_norm)
    yield from _norm("ffn_norm", layer.mlp_norm)
    for name, module in zip(("ffn_gate", "ffn_up") if len(layer.up) == 2 else ("ffn_up",), layer.up, strict=True):
        yield from _linear(name, module)
    yield from _linear("ffn_down", layer.down)
    yield from _norm("post_ffw_norm", layer.mlp_output_norm)


def _norm(name: str, norm: Norm | None) -> Iterator[Tensor]:
    if norm is None:
        return
    weight = norm.module.weight
    yield Tensor(f"{name}.weight", tuple(weight.shape), lambda: weight.float() + norm.offset)
    if getattr(norm.module, "bias", None) is not None:
        yield _vector(f"{name}.bias", norm.module.bias)


def _linear(name: str, module: Any, *, rotated_heads: int | None = None) -> Iterator[Tensor]:
    """Yields the matrix and the bias of a layer; of queries and keys in the order of rows that llama.cpp rotates."""

    def ordered(values: torch.Tensor) -> torch.Tensor:
        return values if rotated_heads is None else _neighbors(values, rotated_heads)

    weight = module.weight.t() if isinstance(module, Conv1D) else module.weight
    yield Tensor(f"{name}.weight", tuple(weight.shape), lambda: ordered(weight), is_matrix=True)
    if module.bias is not None:
        yield Tensor(f"{name}.bias", tuple(module.bias.shape), lambda: ordered(module.bias))


def _neighbors(values: torch.Tensor, heads: int) -> torch.Tensor:
    """Brings the rows that are rotated together next to each other: transformers has one in each half of a head.

    Example:
        >>> _neighbors(torch.arange(8), heads=2).tolist()
        [0, 2, 1, 3, 4, 6, 5, 7]
    """
    rows = values.reshape(heads, 2, -1, *values.shape[1:])
    return rows.transpose(1, 2).reshape(values.shape)


def stored_type(tensor: Tensor, kind: str) -> str:
    """Returns the type that a tensor is written in, if the file is to be of a type.

    Of the small types, the embedding and the head are written with 8 bits, and matrices whose columns are no multiple
    of a block as float16.
    """
    if not tensor.is_matrix:
        return "f32"
    if kind in UNQUANTIZED:
        return kind
    if tensor.shape[-1] % _BLOCK:
        return "f16"
    return "q8_0" if tensor.is_table else kind


def encoded(values: torch.Tensor, kind: "GGMLQuantizationType", name: str) -> "np.ndarray[Any, Any]":
    """Returns the values as a file has them, a part of the rows at a time.

    Raises:
        ConfigError: If float16 cannot hold a value.
    """
    from gguf import GGMLQuantizationType, quants

    values = values.detach().cpu()
    rows = max(1, _CHUNK // values[0].numel()) if values.ndim > 1 else len(values)
    parts = []
    for part in values.split(rows):
        numbers = part.float().contiguous().numpy()
        if kind == GGMLQuantizationType.F16 and np.abs(numbers).max(initial=0.0) > np.finfo(np.float16).max:
            raise ConfigError(f"{name} has values that float16 cannot hold: export as bf16 or f32")
        parts.append(quants.quantize(numbers, kind))
    return np.concatenate(parts) if len(parts) > 1 else parts[0]
