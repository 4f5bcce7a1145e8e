"""Detecting damaged checkpoint folders.

Owns: `manifest.json`, which lists a folder's files with their sizes and hashes. It is written last and read first. Does
not know what the files are.
"""

import hashlib
from pathlib import Path
from typing import Any

from convmodel.files.checked_json import checked_text, read_checked

MANIFEST = "manifest.json"

_FOR_PEOPLE = {"README.md"}  # users may edit it
_FACTS = {"run": str, "step": int, "keep": bool}


def write_manifest(folder: Path, facts: dict[str, Any]) -> None:
    """Lists the files of a folder, with a few facts that readers need before they open the files."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in _FOR_PEOPLE)
    files = {path.relative_to(folder).as_posix(): _describe(path) for path in paths}
    text = checked_text({"format": 1, "facts": facts, "files": files})
    (folder / MANIFEST).write_bytes(text.encode())


def read_facts(folder: Path) -> dict[str, Any]:
    """Returns the facts in the manifest; an empty dictionary if there is no intact manifest."""
    manifest = _read(folder)
    return manifest["facts"] if manifest else {}


def damage(folder: Path) -> str:
    """Describes what is wrong with a folder's files; returns an empty text if nothing is."""
    manifest = _read(folder)
    if not manifest or not manifest["files"]:
        return f"it has no readable {MANIFEST}"
    for name, described in manifest["files"].items():
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


def _read(folder: Path) -> dict[str, Any] | None:
    manifest = read_checked(folder / MANIFEST, {"format": int, "facts": dict, "files": dict})
    if manifest is None:
        return None
    # The manifests of convmodel 0.4 have no checksum, so that damage inside these fields is not noticed otherwise.
    facts, files = manifest["facts"], manifest["files"].values()
    usable = all(type(facts.get(name)) is kind for name, kind in _FACTS.items())
    described = all(isinstance(file, dict) and file.keys() == {"size", "sha256"} for file in files)
    return manifest if usable and described and all(type(file["size"]) is int for file in files) else None
