"""The model that a saved one was fine-tuned from.

Owns: finding its name in the files that fine-tuning wrote.
"""

import os
import re
from pathlib import Path

from convmodel.errors import ModelLoadError
from convmodel.files.hub import ADAPTER_CONFIG, adapter_base
from convmodel.training.best import FINE_TUNED_FROM

_LINE = re.compile(rf"^\| {FINE_TUNED_FROM} \| `(.+)` \|$", re.MULTILINE)


def recorded_base(model: str | os.PathLike[str]) -> str | None:
    """Returns the name of the model that a folder's was fine-tuned from; None if it is not recorded."""
    folder = Path(model)
    try:
        if (folder / ADAPTER_CONFIG).is_file():
            return adapter_base(folder)
        match = _LINE.search((folder / "README.md").read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ModelLoadError):
        return None
    return match.group(1) if match else None
