"""The weights of a GPT-2 as an HTML page carries them.

Owns: which models the page can compute, how their weights are stored, and the order of the arrays in one block of
bytes, which `page/model.js` reads. `hf_model.int8_layers` owns how int8 weights are rounded.
"""

from array import array
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional
from transformers.pytorch_utils import Conv1D

from convmodel.errors import ConfigError
from convmodel.hf_model.int8_rounding import absmax, column_scales
from convmodel.hf_model.lora import has_adapters
from convmodel.hf_model.quantization import require_unquantized

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_LARGEST = 2**15 - 1  # of the integers of the position embedding

_SHAPE = {
    "activation_function": ("gelu_new", "gelu_pytorch_tanh"),  # two names of one function
    "scale_attn_weights": (True,),
    "scale_attn_by_inverse_layer_idx": (False,),
    "add_cross_attention": (False,),
}
"""The values of GPT-2's config that the page computes."""

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
    if type(hf_model).__name__ != "GPT2LMHeadModel":
        raise ConfigError(
            f"a page computes GPT-2 models only, not {type(hf_model).__name__}: export another format, or train a "
            "model from scratch"
        )
    for name, values in _SHAPE.items():
        value = getattr(hf_model.config, name)
        if value not in values:
            raise ConfigError(f"{name} is {value!r}, but a page computes {values[0]!r} only: export another format")
    if has_adapters(hf_model):
        raise ConfigError("LoRA adapters cannot be exported as a page: merge them with merge_adapters()")
    require_unquantized(hf_model, "exported as a page")


def pack_arrays(hf_model: "PreTrainedModel", merges: Sequence[int]) -> PackedArrays:
    """Packs the weights, and the ids of a vocabulary's merges; the model is not changed.

    The matrices and the token embedding are those of `quantize_weights`: int8 with float32 scales of rows and columns,
    each row filled up with zeros to a multiple of 4 columns. The position embedding is int16 with a scale per row,
    which is four times as exact as float16. The rest is float32.
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
    config = hf_model.config
    return {
        "layers": config.n_layer,
        "heads": config.n_head,
        "width": config.n_embd,
        "positions": config.n_positions,
        "epsilon": config.layer_norm_epsilon,
    }


def _all(hf_model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    """Yields the weights with transformers' names, without repeating a head that is tied to the embedding."""
    base = hf_model.transformer
    for name, module in base.named_modules():
        if isinstance(module, Conv1D):
            yield from _rows(name, module.weight.t())  # whose weights are transposed
            yield f"{name}.bias", _float(module.bias)
        elif isinstance(module, nn.LayerNorm):
            yield f"{name}.weight", _float(module.weight)
            yield f"{name}.bias", _float(module.bias)
    yield from _rows("wte", base.wte.weight)
    if hf_model.lm_head.weight.data_ptr() != base.wte.weight.data_ptr():
        yield from _rows("lm_head", hf_model.lm_head.weight)
    positions = _float(base.wpe.weight)
    scales = positions.abs().amax(-1, keepdim=True).div(_LARGEST).clamp_min(torch.finfo(torch.float32).tiny)
    yield "wpe", (positions / scales).round().to(torch.int16)
    yield "wpe.scales", scales


def _rows(name: str, weight: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    columns = column_scales([weight.detach().cpu()])
    rows, scales = absmax(weight.detach().cpu(), columns)
    yield name, functional.pad(rows, (0, -rows.shape[1] % _WORD))
    yield f"{name}.scales", scales
    yield f"{name}.columns", columns


def _float(weight: torch.Tensor) -> torch.Tensor:
    return weight.detach().cpu().float()
