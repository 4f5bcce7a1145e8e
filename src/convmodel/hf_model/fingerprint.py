"""What makes two models the same model, and telling in what two runs differ.

Owns: the hash of a model's weights, and the words about facts that differ.
"""

import hashlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_PIECE = 16  # numbers of each weight that are compared


def differences(there: dict[str, Any], here: dict[str, Any]) -> list[str]:
    """Names each fact in which two runs differ.

    Example:
        >>> differences({"seed": 1, "learning_rate": 0.001}, {"seed": 1, "learning_rate": 0.0005})
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
    """Hashes the architecture's settings and a few numbers of each weight."""
    settings = hf_model.config.to_dict()
    for changing in ("_name_or_path", "transformers_version"):
        settings.pop(changing, None)
    found = hashlib.sha256(json.dumps(settings, sort_keys=True, default=str).encode())
    for name, weight in hf_model.named_parameters():
        flat = weight.detach().flatten()
        piece = flat[:: max(1, len(flat) // _PIECE)].float().cpu().numpy()
        found.update(name.encode() + piece.tobytes())
    return f"{hf_model.config.model_type} {found.hexdigest()[:12]}"


def weights_version(hf_model: "PreTrainedModel") -> tuple[Any, ...]:
    """Returns what differs after the weights were trained, loaded, moved or replaced.

    torch counts the changes made to a tensor in place, but not those of fused optimizers, which change every number.
    """
    import torch  # here, because commands that load no model read `differences` above

    weights = [*hf_model.parameters()]
    numbers = [
        weight.detach()[tuple(size // 2 for size in weight.shape)].float()
        for weight in weights
        if weight.numel() and weight.device.type != "meta"  # where weights are that accelerate keeps elsewhere
    ]
    devices = dict.fromkeys(number.device for number in numbers)
    probes = [torch.stack([each for each in numbers if each.device == device]).tolist() for device in devices]
    return tuple((id(weight), weight.data_ptr(), weight._version) for weight in weights), str(probes)


_PIECES = 16  # numbers of each weight that tell a base from another


def base_fingerprint(hf_model: "PreTrainedModel") -> str:
    """Hashes the first numbers of each weight, in bfloat16, so that a model may be loaded in that or in float32."""
    import torch

    found = hashlib.sha256()
    for name, weight in sorted(hf_model.named_parameters()):
        piece = weight.detach().flatten()[:_PIECES].to("cpu", torch.bfloat16)
        found.update(name.encode() + piece.view(torch.int16).numpy().tobytes())
    return found.hexdigest()[:16]
