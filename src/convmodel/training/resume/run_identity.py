"""What makes two runs of training the same run.

Owns: the facts that must be equal for one to go on where the other stopped. Loads nothing heavy, since it only takes
what others have made.
"""

import hashlib
import json
from typing import TYPE_CHECKING, Any

from convmodel.hf_model.fingerprint import model_fingerprint
from convmodel.training.config import FitConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from convmodel.data.windows.encoding import WindowSet

WITHOUT_EFFECT = frozenset(
    {"output_dir", "report_to", "logging_steps", "save_steps", "save_minutes", "save_total_limit", "resume"}
)
"""Settings that change nothing of what is learned; all others must be the same."""

_WINDOWS = 1000  # of which the ids are compared; of all others only the lengths


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
        "first weights": model_fingerprint(hf_model),
    }
    same: dict[str, Any] = json.loads(json.dumps(facts))
    return same


def _windows(data: "WindowSet") -> str:
    """Counts windows, and hashes their lengths and the ids and labels of some, evenly spaced."""
    count = len(data.windows)
    found = hashlib.sha256(data.lengths.astype("<i4").tobytes())
    for index in range(0, count, -(-count // _WINDOWS) or 1):
        window = data.windows[index]
        found.update(repr((list(window.input_ids), list(window.types), list(window.labels), window.weights)).encode())
    return f"{count} windows {found.hexdigest()[:12]}"
