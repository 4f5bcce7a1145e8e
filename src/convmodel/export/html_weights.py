"""The weights of a model as an HTML page carries them.

Owns: which models the page can compute, how their weights are stored and named, and the order of the arrays in one
block of bytes, which `page/model.js` reads. `hf_model.int8_rounding` owns how int8 weights are rounded, and
`hf_model.decoder` where they are in a model.
"""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from convmodel.errors import ConfigError
from convmodel.hf_model.decoder import DecoderLayer, Norm, UnknownDecoderError, decoder_of
from convmodel.hf_model.int8_rounding import absmax, column_scales
from convmodel.hf_model.lora import has_adapters
from convmodel.hf_model.quantization import require_unquantized

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_LARGEST = 2**15 - 1  # of the integers of the position embedding

_CONFIGS: dict[str, dict[str, tuple[Any, ...]]] = {
    "GPT2LMHeadModel": {
        "activation_function": ("gelu_new", "gelu_pytorch_tanh"),  # two names of one function
        "scale_attn_weights": (True,),
        "scale_attn_by_inverse_layer_idx": (False,),
        "add_cross_attention": (False,),
    },
    "LlamaForCausalLM": {
        "hidden_act": ("silu", "swish"),  # two names of one function
        "rope_type": ("default",),
    },
}
"""The models that the page computes, and the values of their configs."""

_TYPES = {torch.float32: "Float32Array", torch.int16: "Int16Array", torch.int8: "Int8Array"}
"""The typed array of JavaScript for each dtype."""

_ORDER = ("Int8Array", "Float32Array", "Uint32Array", "Int16Array", "Uint16Array")
_WORD = 4


@dataclass(frozen=True, slots=True)
class PackedArrays:
    """Arrays of numbers in one block of bytes, little-endian.

    Attributes:
        content: The bytes.
        arrays: The name, the typed array of JavaScript and the length of each, in order.
    """

    content: bytes
    arrays: list[tuple[str, str, int]]


def require_computable(hf_model: "PreTrainedModel") -> None:
    """Raises a `ConfigError` for a model that the page cannot compute."""
    name, config = type(hf_model).__name__, hf_model.config
    if name not in _CONFIGS:
        raise ConfigError(
            f"a page computes GPT-2 and Llama models only, not {name}: export another format, or train a model from "
            "scratch"
        )
    found = {**vars(config), **(getattr(config, "rope_parameters", None) or {})}
    for option, values in _CONFIGS[name].items():
        if found[option] not in values:
            raise ConfigError(
                f"{option} is {found[option]!r}, but a page computes {values[0]!r} only: export another format"
            )
    if has_adapters(hf_model):
        raise ConfigError("LoRA adapters cannot be exported as a page: merge them with merge_adapters()")
    require_unquantized(hf_model, "exported as a page")
    try:
        decoder_of(hf_model)
    except UnknownDecoderError as error:
        raise ConfigError(f"a page cannot compute this {name}, since {error}: export another format") from error


def pack_arrays(hf_model: "PreTrainedModel", merges: Sequence[int]) -> PackedArrays:
    """Packs the weights, and the ids of a vocabulary's merges; the model is not changed.

    The matrices and the token embedding are those of `quantize_weights`: int8 with float32 scales of rows and columns,
    each row filled up with zeros to a multiple of 4 columns. The position embedding is int16 with a scale per row,
    which is four times as exact as float16. The rest is float32. Matrices with the same input are one, since they have
    the same scales of columns: the rows of queries, keys and values, and those of gate and up.
    """
    arrays = [(name, _TYPES[values.dtype], values.numpy().tobytes(), values.numel()) for name, values in _all(hf_model)]
    ids = array("H" if max(merges, default=0) < 2**16 else "I", merges)
    arrays.append(("merges", {2: "Uint16Array", 4: "Uint32Array"}[ids.itemsize], ids.tobytes(), len(ids)))
    # JavaScript requires that each begins at a multiple of its numbers' size; rows of int8 are read as words of four.
    arrays.sort(key=lambda each: _ORDER.index(each[1]))
    content = b"".join(part for _, _, part, _ in arrays)
    return PackedArrays(content, [(name, kind, length) for name, kind, _, length in arrays])


def shape_of(hf_model: "PreTrainedModel") -> dict[str, Any]:
    """Returns the sizes of a model, by the names that the page uses."""
    decoder = decoder_of(hf_model)
    return {
        "layers": len(decoder.layers),
        "width": decoder.embedding.weight.shape[1],
        "heads": decoder.heads,
        "keyHeads": decoder.key_value_heads,
        "headSize": decoder.head_size,
        "isGated": decoder.is_gated,
        "epsilon": decoder.norm.epsilon,
    }


def _all(hf_model: "PreTrainedModel") -> Iterator[tuple[str, torch.Tensor]]:
    """Yields the weights with the names of `Decoder`, without repeating a head that is tied to the embedding."""
    decoder = decoder_of(hf_model)
    yield from _linear("embedding", [decoder.embedding])
    if decoder.head.weight.data_ptr() != decoder.embedding.weight.data_ptr():
        yield from _linear("head", [decoder.head])
    for number, layer in enumerate(decoder.layers):
        yield from _layer(f"layers.{number}", layer)
    yield from _norm("norm", decoder.norm)
    if decoder.position_embedding is not None:
        positions = _float(decoder.position_embedding.weight)
        scales = positions.abs().amax(-1, keepdim=True).div(_LARGEST).clamp_min(torch.finfo(torch.float32).tiny)
        yield "positions", (positions / scales).round().to(torch.int16)
        yield "positions.scales", scales
    if decoder.rotary_embedding is not None:
        yield "frequencies", _float(decoder.rotary_embedding.inv_freq)


def _layer(name: str, layer: DecoderLayer) -> Iterator[tuple[str, torch.Tensor]]:
    yield from _norm(f"{name}.attention_norm", layer.attention_norm)
    yield from _linear(f"{name}.query_key_value", layer.query_key_value)
    yield from _linear(f"{name}.attention_output", [layer.attention_output])
    yield from _norm(f"{name}.mlp_norm", layer.mlp_norm)
    yield from _linear(f"{name}.up", layer.up)
    yield from _linear(f"{name}.down", [layer.down])


def _norm(name: str, norm: Norm) -> Iterator[tuple[str, torch.Tensor]]:
    yield f"{name}.weight", _float(norm.module.weight)
    if not norm.is_rms:
        yield f"{name}.bias", _float(norm.module.bias)


def _linear(name: str, modules: Sequence[Any]) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields the rows, scales and bias of layers with the same input, one after the other."""
    weights = [module.weight.detach().cpu() for module in modules]
    matrices = [
        weight.t() if isinstance(module, Conv1D) else weight for module, weight in zip(modules, weights, strict=True)
    ]
    columns = column_scales(matrices)
    packed = [absmax(matrix, columns) for matrix in matrices]
    rows = torch.cat([rows for rows, _ in packed])
    yield name, functional.pad(rows, (0, -rows.shape[1] % _WORD))
    yield f"{name}.scales", torch.cat([scales for _, scales in packed])
    yield f"{name}.columns", columns
    biases = [_float(module.bias) for module in modules if getattr(module, "bias", None) is not None]
    if biases:
        yield f"{name}.bias", torch.cat(biases)


def _float(weight: torch.Tensor) -> torch.Tensor:
    return weight.detach().cpu().float()
