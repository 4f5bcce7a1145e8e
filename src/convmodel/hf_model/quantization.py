"""8-bit weights for inference on CPUs, for a quarter of the memory and less time per token.

Owns: which weights are quantized, and refusing what needs the original ones. The quantization scheme is in
`int8_layers`.
"""

import logging
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from convmodel.errors import ConfigError
from convmodel.hf_model.decoder import UnknownDecoderError, decoder_of
from convmodel.hf_model.eval_mode import evaluation_mode
from convmodel.hf_model.fingerprint import keep_base_fingerprint
from convmodel.hf_model.int8_layers import Int8Embedding, Int8Linear, layer_of
from convmodel.hf_model.int8_rounding import absmax, column_scales, release_memory

if TYPE_CHECKING:
    from transformers import PreTrainedModel

QUANTIZATIONS = ("int8",)
"""Values of `from_pretrained(quantize=...)`."""

logger = logging.getLogger(__name__)

_TRIAL_ROWS = 64  # rows of an embedding that are looked up to measure its scale
_ROUNDING = 0.01  # tolerance, above the rounding of bfloat16


def quantize_weights(hf_model: "PreTrainedModel", quantize: str) -> None:
    """Quantizes a model's linear layers and token embedding in place, one by one, so that memory does not grow.

    The original weights become invalid, also for other references to them. Other weights (norms, convolutions, experts)
    stay as they are, and so does the dtype of activations.

    Raises:
        ConfigError: If `quantize` is not in `QUANTIZATIONS`, the model is not on the CPU, or it cannot generate.
    """
    check_quantization(quantize)
    if hf_model.device.type != "cpu":
        raise ConfigError(
            f"quantize={quantize!r} is for CPUs, but the model is on {hf_model.device}: leave it out there"
        )
    modules = _quantizable(hf_model, quantize)
    keep_base_fingerprint(hf_model)
    before = _nbytes(hf_model)
    factors = {name: _factor(module) for name, module in modules.items() if isinstance(module, nn.Embedding)}
    groups = _with_the_same_input(hf_model, modules)
    columns: dict[str, torch.Tensor] = {}
    packed: dict[int, _Packed] = {}  # by address: tied layers share integers and scales
    # The embedding and the head, which may be tied, come first: both are large, and packing needs memory.
    for name in sorted(modules, key=lambda name: -modules[name].weight.nbytes):
        module = modules[name]
        address = module.weight.data_ptr()
        if address not in packed:
            if name not in columns:
                group = [each for each in groups.get(name, [name]) if each in modules]
                # A tied matrix may be packed, and its memory freed, with a layer of another group.
                kept = [modules[each] for each in group if modules[each].weight.data_ptr() not in packed]
                columns |= dict.fromkeys(group, column_scales([_matrix(each) for each in kept]))
            packed[address] = _pack(module, columns[name])
        hf_model.set_submodule(name, _layer(module, packed[address], factors.get(name)).eval())
        del modules[name]
    hf_model.requires_grad_(False)  # only adapters over it can be trained
    _report(hf_model, before, quantize)


def check_quantization(quantize: str | None) -> None:
    """Raises a `ConfigError` if `quantize` is neither None nor in `QUANTIZATIONS`."""
    if quantize is not None and quantize not in QUANTIZATIONS:
        raise ConfigError(f"quantize is {quantize!r}: it must be {', '.join(QUANTIZATIONS)}")


def _quantizable(hf_model: "PreTrainedModel", quantize: str) -> dict[str, Any]:
    """Returns the modules that can be quantized, by name: those whose weight the model does not access itself.

    Some architectures read a layer's weight themselves (Mamba, RWKV); such a layer must stay as it is.
    """
    embedding = hf_model.get_input_embeddings()
    modules: dict[str, Any] = {
        name: module
        for name, module in hf_model.named_modules()
        if type(module) is nn.Linear or isinstance(module, Conv1D) or (module is embedding and _factor(module))
    }
    try:
        decoder_of(hf_model)
        called = modules
    except UnknownDecoderError:
        called = _only_called(hf_model, modules, quantize)
    # A weight that is also used in another place would be kept twice.
    uses = Counter(weight.data_ptr() for _, weight in hf_model.named_parameters(remove_duplicate=False))
    uses.subtract(module.weight.data_ptr() for module in called.values())
    return {name: module for name, module in called.items() if not uses[module.weight.data_ptr()]}


def _with_the_same_input(hf_model: "PreTrainedModel", modules: Mapping[str, Any]) -> dict[str, list[str]]:
    """Returns the names of layers that are computed together, for each of them; they share the scales of columns."""
    try:
        layers = decoder_of(hf_model).layers
    except UnknownDecoderError:
        return {}
    names = {id(module): name for name, module in modules.items()}
    together = [each for layer in layers for each in (layer.query_key_value, layer.up)]
    groups = [[names[id(module)] for module in group if id(module) in names] for group in together]
    return {name: group for group in groups for name in group}


def _only_called(hf_model: "PreTrainedModel", modules: Mapping[str, Any], quantize: str) -> dict[str, Any]:
    """Returns the modules that generating two tokens only calls; this reads all weights into memory."""
    probes = {name: _Probe(module) for name, module in modules.items()}
    try:
        for name, probe in probes.items():
            hf_model.set_submodule(name, probe)
        with evaluation_mode(hf_model), torch.inference_mode():
            ids = torch.zeros(1, 2, dtype=torch.long)
            options: Any = {"max_new_tokens": 2, "min_new_tokens": 2, "do_sample": False, "pad_token_id": 0}
            hf_model.generate(ids, attention_mask=torch.ones_like(ids), **options)  # type: ignore[operator]
    except Exception as error:
        raise ConfigError(
            f"quantize={quantize!r} begins with a trial response, which failed ({type(error).__name__}: {error}): "
            "leave it out"
        ) from error
    finally:
        for name, module in modules.items():
            hf_model.set_submodule(name, module)
    return {name: module for name, module in modules.items() if not probes[name].was_read}


class _Probe(nn.Module):
    """Stands in for a module in a trial, and records whether an attribute of it was accessed."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.was_read = False
        self._module = module

    def forward(self, *arguments: Any, **options: Any) -> Any:
        return self._module(*arguments, **options)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            self.was_read = True
            return getattr(super().__getattr__("_module"), name)


def _factor(embedding: Any) -> float | None:
    """Returns the scale of an embedding: 1, or that of Gemma; None if it does more than scale its rows."""
    if not isinstance(embedding, nn.Embedding):
        return None
    if type(embedding) is nn.Embedding:
        return 1.0
    ids = torch.arange(min(_TRIAL_ROWS, embedding.num_embeddings))
    with torch.inference_mode():
        rows, result = embedding.weight[ids].float(), embedding(ids)
        if result.shape != rows.shape:
            return None
        factor = (result.float() * rows).sum() / (rows * rows).sum()
        is_multiple = torch.allclose(result.float(), rows * factor, rtol=_ROUNDING, atol=0.0)
    return float(factor) if is_multiple else None


def _report(hf_model: "PreTrainedModel", before: int, quantize: str) -> None:
    """Logs how much was quantized; where it is little, a warning names the largest weights that stay as they are."""
    left = _nbytes(hf_model)
    logger.info(
        "%.0f of %.0f MiB of weights are quantized to %s; activations stay %s",
        *((before - left) / 2**20, before / 2**20, quantize, str(hf_model.dtype).removeprefix("torch.")),
    )
    if left > before / 2:
        name, weight = max(hf_model.named_parameters(), key=lambda item: item[1].nbytes)
        logger.warning(
            "%s is for linear layers and the embedding, which are %.0f %% of this model's weights: the others, such as "
            "%s (%s), stay as they are and take the same memory",
            *(quantize, 100 * (1 - left / before), name, " x ".join(map(str, weight.shape))),
        )


def is_quantized(hf_model: "PreTrainedModel") -> bool:
    """Returns whether weights were packed, so that adapters alone can be trained and saved."""
    return any(isinstance(module, Int8Linear | Int8Embedding) for module in hf_model.modules())


def count_parameters(hf_model: "PreTrainedModel") -> int:
    """Returns the number of a model's parameters, packed ones included; tied ones count once."""
    packed = {
        module.scales.data_ptr(): module.size
        for module in hf_model.modules()
        if isinstance(module, Int8Linear | Int8Embedding)
    }
    return sum(parameter.numel() for parameter in hf_model.parameters()) + sum(packed.values())


def require_unquantized(hf_model: "PreTrainedModel", what: str) -> None:
    """Raises a `ConfigError` for a quantized model."""
    if is_quantized(hf_model):
        raise ConfigError(f"a quantized model cannot be {what}: load it without quantize")


class _Packed(NamedTuple):
    """Integers, and the scales of rows and columns."""

    integers: torch.Tensor
    scales: torch.Tensor
    columns: torch.Tensor


def _matrix(module: Any) -> torch.Tensor:
    """Returns the weights of a layer or the embedding, (outputs, inputs)."""
    weight: torch.Tensor = module.weight
    return weight.t() if isinstance(module, Conv1D) else weight


def _pack(module: Any, columns: torch.Tensor) -> _Packed:
    """Rounds the weights of a layer or the embedding, and frees them."""
    integers, scales = absmax(_matrix(module), columns, release=True)
    release_memory(module.weight)  # of a transposed matrix nothing was freed meanwhile
    return _Packed(integers, scales, columns)


def _layer(module: Any, packed: _Packed, factor: float | None) -> nn.Module:
    """Makes the layer that replaces another; an embedding multiplies its rows by a factor."""
    integers, scales, columns = packed
    if factor is None:
        layer = layer_of(integers, scales, module.bias, columns)
        layer.is_transposed = isinstance(module, Conv1D)
        return layer
    return Int8Embedding(integers, scales, columns, dtype=module.weight.dtype, factor=factor)


def _nbytes(hf_model: "PreTrainedModel") -> int:
    return sum(weight.nbytes for weight in hf_model.parameters())
