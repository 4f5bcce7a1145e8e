"""JSON files that hold their own checksum, so that any damage to them is noticed.

Owns: the `sha256` field, and that a file is read only if it is byte for byte as it was written. Files of convmodel 0.4
have no checksum: they are read if they have the expected fields.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def checked_text(content: dict[str, Any]) -> str:
    """Returns an object as JSON, with the checksum of its other fields as the last one.

    Example:
        >>> print(checked_text({"step": 3}))  # doctest: +ELLIPSIS
        {
         "step": 3,
         "sha256": "b7c5f957..."
        }
    """
    digest = hashlib.sha256(json.dumps(content, indent=1).encode()).hexdigest()
    return json.dumps({**content, "sha256": digest}, indent=1)


def checked_content(data: bytes, fields: Mapping[str, type]) -> dict[str, Any] | None:
    """Returns the object that `checked_text` wrote, with fields of these types; None if any byte differs."""
    try:
        content = json.loads(data)
    except (ValueError, RecursionError):
        return None
    if not isinstance(content, dict):
        return None
    checked = content.pop("sha256", None) is not None
    if content.keys() != fields.keys() or not all(type(content[name]) is kind for name, kind in fields.items()):
        return None
    text = checked_text(content) if checked else json.dumps(content, indent=1)
    return content if text.encode() == data else None


def read_checked(path: Path, fields: Mapping[str, type]) -> dict[str, Any] | None:
    """Returns the object in a file that `checked_text` wrote; None if the file is missing or damaged."""
    try:
        return checked_content(path.read_bytes(), fields)
    except OSError:
        return None
