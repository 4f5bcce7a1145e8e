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


def write_manifest(folder: Path, facts: dict[str, Any]) -> None:
    """Lists the files of a folder, with a few facts that readers need before they open the files."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name not in _FOR_PEOPLE)
    files = {path.relative_to(folder).as_posix(): _describe(path) for path in paths}
    text = checked_text({"format": 1, "facts": facts, "files": files})
    (folder / MANIFEST).write_bytes(text.encode())


def read_facts(folder: Path) -> dict[str, Any]:
    """Returns the facts in the manifest; an empty dictionary if there is no intact manifest."""
    facts: dict[str, Any] = (read_checked(folder / MANIFEST) or {}).get("facts", {})
    return facts


def damage(folder: Path) -> str:
    """Describes what is wrong with a folder's files; returns an empty text if nothing is."""
    manifest = read_checked(folder / MANIFEST)
    if not manifest or not manifest.get("files"):
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
