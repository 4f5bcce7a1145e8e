"""Detecting damaged checkpoint folders.

Owns: `manifest.json`, which lists a folder's files with their sizes and hashes. It is written last and read first. Does
not know what the files are.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

MANIFEST = "manifest.json"

_FOR_PEOPLE = {"README.md"}  # users may edit it


def write_manifest(folder: Path, facts: dict[str, Any]) -> None:
    """Lists the files of a folder, with a few facts that readers need before they open the files."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in _FOR_PEOPLE)
    files = {path.relative_to(folder).as_posix(): _describe(path) for path in paths}
    text = json.dumps({"format": 1, "facts": facts, "files": files}, indent=1)
    (folder / MANIFEST).write_text(text, encoding="utf-8")


def read_facts(folder: Path) -> dict[str, Any]:
    """Returns the facts in the manifest; an empty dictionary if there is no readable manifest."""
    facts: dict[str, Any] = _read(folder).get("facts", {})
    return facts


def damage(folder: Path) -> str:
    """Describes what is wrong with a folder's files; returns an empty text if nothing is."""
    files = _read(folder).get("files")
    if not files:
        return f"it has no readable {MANIFEST}"
    for name, described in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != described["size"]:
            return f"{name} has {path.stat().st_size:,} bytes instead of {described['size']:,}"
        if _describe(path) != described:
            return f"{name} has another hash than when it was written"
    return ""


def _describe(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def _read(folder: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return manifest if isinstance(manifest, dict) else {}
