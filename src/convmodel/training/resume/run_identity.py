"""The identity of a training run.

Owns: the facts that must be equal for a run to resume from another's checkpoint. Does not know how they are compared,
and imports nothing heavy.
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
"""Settings that do not change the trained weights; all others must be equal."""

_WINDOWS = 1000  # whose ids are hashed; of the others only the lengths


def run_identity(
    hf_model: "PreTrainedModel", train: "WindowSet", valid: "WindowSet | None", config: FitConfig, *, processes: int = 1
) -> dict[str, Any]:
    """Describes a run before its first step, in JSON values: equal for two runs that compute the same."""
    settings = {name: value for name, value in config.to_dict().items() if name not in WITHOUT_EFFECT}
    facts = settings | {
        "processes": processes,
        "training data": windows_hash(train),
        "validation data": None if valid is None else windows_hash(valid),
        "first weights": model_fingerprint(hf_model),
    }
    as_read: dict[str, Any] = json.loads(json.dumps(facts))  # tuples become lists
    return as_read


def windows_hash(data: "WindowSet") -> str:
    """Counts windows, and hashes their lengths and the ids and labels of evenly spaced ones."""
    count = len(data.windows)
    digest = hashlib.sha256(data.lengths.astype("<i4").tobytes())
    for index in range(0, count, -(-count // _WINDOWS) or 1):
        window = data.windows[index]
        digest.update(repr((list(window.input_ids), list(window.types), list(window.labels), window.weights)).encode())
    return f"{count} windows {digest.hexdigest()[:12]}"
