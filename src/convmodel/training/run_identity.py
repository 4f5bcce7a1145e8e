"""What makes two runs of training the same run.

Owns: the facts that must be equal for one to go on where the other stopped, and telling which differ. Loads nothing
heavy, since it only takes what others have made.
"""

import hashlib
import json
from typing import TYPE_CHECKING, Any

from convmodel.training.config import FitConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from convmodel.data.window_set import WindowSet

WITHOUT_EFFECT = frozenset(
    {"output_dir", "report_to", "logging_steps", "save_steps", "save_minutes", "save_total_limit", "resume"}
)
"""Settings that change nothing of what is learned; all others must be the same."""

_WINDOWS = 1000  # of which the ids are compared; of all others only the lengths
_PIECE = 16  # numbers of each weight that are compared


def run_identity(
    hf_model: "PreTrainedModel",
    train: "WindowSet",
    valid: "WindowSet | None",
    config: FitConfig,
    *,
    processes: int = 1,
) -> dict[str, Any]:
    """Describes a run before it begins: its settings, its data and the model it begins with.

    Args:
        hf_model: The model as it is before the first update.
        train: What it learns from.
        valid: What it is chosen by.
        config: The settings.
        processes: How many work together.

    Returns:
        Facts by name, of what JSON knows; equal for two runs that do the same.
    """
    settings = {name: value for name, value in config.to_dict().items() if name not in WITHOUT_EFFECT}
    facts = settings | {
        "processes": processes,
        "training data": _windows(train),
        "validation data": None if valid is None else _windows(valid),
        "first weights": _weights(hf_model),
    }
    same: dict[str, Any] = json.loads(json.dumps(facts))
    return same


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


def _windows(data: "WindowSet") -> str:
    """Counts windows, and hashes their lengths and the ids and labels of some, evenly spaced."""
    count = len(data.windows)
    found = hashlib.sha256(data.lengths.astype("<i4").tobytes())
    for index in range(0, count, -(-count // _WINDOWS) or 1):
        window = data.windows[index]
        found.update(repr((list(window.input_ids), list(window.types), list(window.labels), window.weights)).encode())
    return f"{count} windows {found.hexdigest()[:12]}"


def _weights(hf_model: "PreTrainedModel") -> str:
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
