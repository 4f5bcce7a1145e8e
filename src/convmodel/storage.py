"""Folders on disk, written whole or not at all.

Owns: staging a folder's files beside their place and moving them in when all are written.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from convmodel.errors import SaveError


def require_writable(folder: str | os.PathLike[str]) -> None:
    """Checks, before work begins, that files can be written into a folder; makes the folder if it is missing.

    Raises:
        SaveError: If they cannot.
    """
    with staged(folder):
        pass


@contextmanager
def staged(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a folder to write into, and moves its files into place when the block ends well.

    A block that fails leaves the place as it was. Files already there stay, unless one of the same name replaces them.

    Raises:
        SaveError: If the place cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as place:
        ...     with staged(Path(place, "model")) as stage:
        ...         _ = (stage / "config.json").write_text("{}")
        ...     print(Path(place, "model", "config.json").read_text())
        {}
    """
    place = Path(folder)
    existed = place.is_dir()
    stage = None
    try:
        place.mkdir(parents=True, exist_ok=True)
        # Inside the place, so that moving a file in is a rename on one file system.
        stage = Path(tempfile.mkdtemp(prefix=".convmodel-", dir=place))
        yield stage
        for path in sorted(stage.iterdir()):
            path.replace(place / path.name)
    except OSError as error:
        raise SaveError(f"{place} cannot be written: {error.strerror or error}; choose another folder") from error
    finally:
        if stage is not None:
            shutil.rmtree(stage, ignore_errors=True)
        if not existed and place.is_dir() and not any(place.iterdir()):
            place.rmdir()
