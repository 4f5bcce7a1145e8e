"""Hashes of a model's weights, and the facts in which two runs differ.

Owns: `model_fingerprint` (which model wrote a file), `base_fingerprint` (which base LoRA adapters belong to) and
`weights_version` (whether weights changed in memory, or how adapters are used). All look at a few values of each
weight. Functions import torch themselves, because commands that load no model compare runs too.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_SAMPLES = 16  # values of each weight that are hashed
_BEFORE_PACKING = "base_fingerprint_before_packing"  # an attribute of a quantized model
_SMALL = 1 << 15  # values of a tensor that are compared as a whole
_SPACED = 16  # values of a larger tensor that are compared; each is a cache miss


def differing_facts(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """Names each fact in which two runs differ.

    Example:
        >>> differing_facts({"seed": 1, "learning_rate": 0.001}, {"seed": 1, "learning_rate": 0.0005})
        ['learning_rate: 0.001 there, 0.0005 here']
    """
    names = dict.fromkeys([*there, *here])
    return [
        f"{name}: {_shown(there, name)} there, {_shown(here, name)} here"
        for name in names
        if name not in there or name not in here or there[name] != here[name]
    ]


def _shown(facts: dict[str, Any], name: str) -> str:
    value = facts.get(name, "nothing")
    return value if isinstance(value, str) else json.dumps(value)


def model_fingerprint(hf_model: "PreTrainedModel") -> str:
    """Hashes the architecture's settings and a few values of each weight, in float32; of packed weights, as they were.

    Run folders, next-turn heads, files of responses and reports store it.
    """
    settings = hf_model.config.to_dict()
    for changing in ("_name_or_path", "transformers_version"):
        settings.pop(changing, None)
    digest = _hash_weights(
        hf_model.named_parameters(),
        lambda values: values[:: max(1, len(values) // _SAMPLES)].float(),
        prefix=json.dumps(settings, sort_keys=True, default=str) + vars(hf_model).get(_BEFORE_PACKING, ""),
    )
    return f"{hf_model.config.model_type} {digest[:12]}"


def base_fingerprint(hf_model: "PreTrainedModel") -> str:
    """Hashes the first values of each weight, in bfloat16: loaded in that or in float32, a base is the same.

    Adapters store it. Of a quantized model it is that of its weights before they were packed, so that the same adapters
    fit both.
    """
    import torch

    if (kept := vars(hf_model).get(_BEFORE_PACKING)) is not None:
        return str(kept)
    weights = sorted(hf_model.named_parameters())
    return _hash_weights(weights, lambda values: values[:_SAMPLES].to(torch.bfloat16))[:16]


def keep_base_fingerprint(hf_model: "PreTrainedModel") -> None:
    """Keeps the fingerprint of a model as that of its base, before its weights are packed."""
    hf_model.__dict__[_BEFORE_PACKING] = base_fingerprint(hf_model)


def _hash_weights(
    weights: "Iterable[tuple[str, torch.Tensor]]", sample: "Callable[[torch.Tensor], torch.Tensor]", *, prefix: str = ""
) -> str:
    import torch

    digest = hashlib.sha256(prefix.encode())
    for name, weight in weights:
        values = sample(weight.detach().flatten()).cpu().contiguous()
        digest.update(name.encode() + values.view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def weights_version(hf_model: "PreTrainedModel") -> tuple[Any, ...]:
    """Returns a value that changes when weights are trained, loaded, moved, replaced or edited; for this process alone.

    It also changes when adapters are switched off or on, chosen, merged or scaled, most of which changes no weight.

    torch counts changes made to a tensor in place, but not those of fused optimizers, through `.data` or through numpy.
    Therefore values of each tensor are part of it: all of a small tensor, one row and evenly spaced values of a large
    one. To look at all values would take as long as a token. What this misses are edits of a few values or rows of a
    large matrix that are made through `.data` or numpy.
    """
    import torch

    places: list[tuple[int, int, int]] = []
    samples: dict[tuple[Any, ...], list[torch.Tensor]] = {}
    modules = [*hf_model.modules()]  # a walk takes longer than what is looked up
    for tensor in _tensors(modules):
        is_strided = tensor.layout == torch.strided
        places.append((id(tensor), tensor.data_ptr() if is_strided else 0, tensor._version))
        if is_strided and not tensor.is_meta:  # accelerate keeps these weights elsewhere
            samples.setdefault((tensor.device, tensor.dtype), []).extend(_sample(tensor.detach()))
    values = [torch.cat(parts).view(torch.uint8).cpu().numpy().tobytes() for parts in samples.values()]
    return tuple(places), _adapter_states(modules), *values


def _adapter_states(modules: "Iterable[torch.nn.Module]") -> tuple[Any, ...]:
    """Returns how each of peft's layers uses its adapters."""
    # Looked up in the class, since a missing attribute of a module takes long.
    layers: list[Any] = [module for module in modules if hasattr(type(module), "merged_adapters")]
    return tuple(
        (
            layer.disable_adapters,
            tuple(layer.active_adapters),
            tuple(layer.merged_adapters),
            repr(vars(layer).get("scaling")),
        )
        for layer in layers
    )


def _tensors(modules: "Iterable[torch.nn.Module]") -> "Iterator[torch.Tensor]":
    """Yields all tensors that modules compute with; those of quantized layers are plain attributes."""
    import torch

    from convmodel.hf_model.int8_layers import Int8Embedding, Int8Linear

    for module in modules:
        yield from (tensor for tensor in module._parameters.values() if tensor is not None)
        yield from (tensor for tensor in module._buffers.values() if tensor is not None)
        if isinstance(module, Int8Linear | Int8Embedding):
            yield from (tensor for tensor in vars(module).values() if isinstance(tensor, torch.Tensor))


def _sample(tensor: "torch.Tensor") -> "list[torch.Tensor]":
    """Returns all values of a small tensor; of a large one the middle row, and evenly spaced values."""
    flat = tensor if tensor.ndim == 1 else tensor.reshape(-1)
    size = flat.numel()
    if size <= _SMALL:
        return [flat]
    columns = tensor.shape[-1]
    middle = size // columns // 2 * columns
    return [flat[middle : middle + min(columns, _SMALL)], flat[:: size // _SPACED]]
