"""Whether the memory and the disk have room for one more version of a model.

Owns: how much a version needs. Does not know what happens if there is no room.
"""

import shutil
import time
from pathlib import Path
from typing import TYPE_CHECKING

from convmodel.training.doctor.estimate import available_bytes

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_MIB = 2**20


def missing_memory(hf_model: "PreTrainedModel", *, seconds: float = 5.0) -> str:
    """Says what is missing to load a second model as large as this one; empty if it fits in memory.

    Args:
        hf_model: The model that is served.
        seconds: How long to wait, since a model that has just been dropped may need a moment to end.
    """
    needed = _bytes(hf_model)
    end = time.monotonic() + seconds
    while (available := available_bytes(hf_model)) is not None and available - needed < needed:
        if time.monotonic() >= end:
            free = max(0, available - needed)
            return f"a second model needs {needed / _MIB:,.0f} MiB of memory, and {free / _MIB:,.0f} MiB are free"
        time.sleep(0.1)
    return ""


def missing_room(folder: Path, hf_model: "PreTrainedModel", *, what: str = "an improvement", models: int = 2) -> str:
    """Says what is missing on the disk for a run; empty if it fits.

    Args:
        folder: Where it is written.
        hf_model: The model that is trained.
        what: What the message calls the run.
        models: How much it writes, in sizes of the model: for an improvement, the new one and a checkpoint.
    """
    needed = models * _bytes(hf_model)
    free = shutil.disk_usage(folder).free
    if free >= needed:
        return ""
    problem = f"{what} needs {needed / _MIB:,.0f} MiB on the server's disk, and {free / _MIB:,.0f} MiB are free"
    return f"{problem}: delete folders of versions that are no longer needed"


def _bytes(hf_model: "PreTrainedModel") -> int:
    return sum(weight.nbytes for weight in hf_model.parameters())
