"""Hashes of a model's weights, and the facts in which two runs differ.

Owns: `model_fingerprint` (which model wrote a file), `base_fingerprint` (which base LoRA adapters belong to) and
`weights_version` (whether weights changed in memory). All look at a few values of each weight. Functions import torch
themselves, because commands that load no model compare runs too.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

_SAMPLES = 16  # values of each weight that are hashed


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
    """Hashes the architecture's settings and a few values of each weight, in float32.

    Run folders, next-turn heads, files of responses and reports store it.
    """
    settings = hf_model.config.to_dict()
    for changing in ("_name_or_path", "transformers_version"):
        settings.pop(changing, None)
    digest = _hash_weights(
        hf_model.named_parameters(),
        lambda values: values[:: max(1, len(values) // _SAMPLES)].float(),
        prefix=json.dumps(settings, sort_keys=True, default=str),
    )
    return f"{hf_model.config.model_type} {digest[:12]}"


def base_fingerprint(hf_model: "PreTrainedModel") -> str:
    """Hashes the first values of each weight, in bfloat16: loaded in that or in float32, a base is the same.

    Adapters store it.
    """
    import torch

    weights = sorted(hf_model.named_parameters())
    return _hash_weights(weights, lambda values: values[:_SAMPLES].to(torch.bfloat16))[:16]


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
    """Returns a value that changes when weights are trained, loaded, moved or replaced; it is for this process alone.

    torch counts changes made to a tensor in place, but not those of fused optimizers, which change every value.
    Therefore one value of each weight is part of it.
    """
    import torch

    weights = [*hf_model.parameters()]
    values = [
        weight.detach()[tuple(size // 2 for size in weight.shape)].float()
        for weight in weights
        if weight.numel() and weight.device.type != "meta"  # accelerate keeps these weights elsewhere
    ]
    devices = dict.fromkeys(value.device for value in values)
    by_device = [torch.stack([value for value in values if value.device == device]).tolist() for device in devices]
    return tuple((id(weight), weight.data_ptr(), weight._version) for weight in weights), str(by_device)
