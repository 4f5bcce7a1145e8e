"""The identity of a training run.

Owns: the facts that must be equal for a run to resume from another's checkpoint. Does not know how they are compared.
"""

import json
from typing import TYPE_CHECKING, Any

from convmodel.data.windows.encoding import WindowSet, windows_hash
from convmodel.hf_model.fingerprint import model_fingerprint
from convmodel.training.config import PREFERENCE_SETTINGS, FitConfig

if TYPE_CHECKING:
    from transformers import PreTrainedModel

WITHOUT_EFFECT = frozenset(
    {"output_dir", "report_to", "logging_steps", "samples", "save_steps", "save_minutes", "save_total_limit", "resume"}
)
"""Settings that do not change the trained weights; all others must be equal."""


def run_identity(
    hf_model: "PreTrainedModel", train: WindowSet, valid: WindowSet | None, config: FitConfig, *, processes: int = 1
) -> dict[str, Any]:
    """Describes a run before its first step, in JSON values: equal for two runs that compute the same."""
    unused = WITHOUT_EFFECT if config.objective != "sft" else {*WITHOUT_EFFECT, "objective", *PREFERENCE_SETTINGS}
    settings = {name: value for name, value in config.to_dict().items() if name not in unused}
    facts = settings | {
        "processes": processes,
        "training data": windows_hash(train),
        "validation data": None if valid is None else windows_hash(valid),
        "first weights": model_fingerprint(hf_model),
    }
    as_read: dict[str, Any] = json.loads(json.dumps(facts))  # tuples become lists
    return as_read
