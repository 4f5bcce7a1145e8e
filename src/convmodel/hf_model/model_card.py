"""What is read from the card of a model: the model that it was fine-tuned from, and its license.

Owns: where in the card they are. `saving` writes the card.
"""

import os
import re
from pathlib import Path

import yaml

from convmodel.errors import ModelLoadError
from convmodel.files.hub import ADAPTER_CONFIG, adapter_base, find_file, resolve_builtin

CARD = "README.md"
FINE_TUNED_FROM = "Fine-tuned from"
"""The line of a model card that names the base model of a run; evaluation compares with it."""

_LINE = re.compile(rf"^\| {FINE_TUNED_FROM} \| `(.+)` \|$", re.MULTILINE)
_METADATA = re.compile(r"---\n(.*?)\n---\n", re.DOTALL)


def recorded_base(model: str | os.PathLike[str]) -> str | None:
    """Returns the name of the model that a folder's was fine-tuned from; None if it is not recorded."""
    folder = Path(model)
    try:
        if (folder / ADAPTER_CONFIG).is_file():
            return adapter_base(folder)
        match = _LINE.search((folder / CARD).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, ModelLoadError):
        return None
    return match.group(1) if match else None


def recorded_license(model: str) -> str | None:
    """Returns the license in the metadata of a model's card: in a folder, the package, or what was downloaded."""
    try:
        path = find_file(resolve_builtin(model), CARD, {"local_files_only": True})
        match = _METADATA.match(path.read_text(encoding="utf-8")) if path else None
        metadata = yaml.safe_load(match.group(1)) if match else None
    except (OSError, ValueError, yaml.YAMLError):
        return None
    license = metadata.get("license") if isinstance(metadata, dict) else None
    return license if isinstance(license, str) else None
