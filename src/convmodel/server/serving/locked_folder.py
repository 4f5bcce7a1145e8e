"""The lock of a folder that one server at a time writes into.

Owns: the lock, and the messages about it. Does not know what the folder holds.
"""

import os
import sys
from pathlib import Path

from convmodel.errors import SaveError
from convmodel.files.atomic import lock


def lock_folder(folder: Path, flag: str) -> int | None:
    """Locks a folder, which is created if it is missing, until its descriptor is closed.

    Args:
        folder: The folder.
        flag: The option of `convmodel serve` that names it.

    Raises:
        SaveError: If the folder cannot be written, or another server uses it.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if sys.platform == "win32":  # folders cannot be opened there
            return None
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError as error:
        message = f"{folder} cannot be written: {error.strerror or error}; give another folder to {flag}"
        raise SaveError(message) from error
    if not lock(descriptor):
        os.close(descriptor)
        raise SaveError(f"another server trains in {folder}: stop it, or give another folder to {flag}")
    return descriptor
