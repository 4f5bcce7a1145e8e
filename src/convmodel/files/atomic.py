"""Folders on disk, written whole or not at all.

Owns: staging files beside their place and moving them in when all are written and on the disk: file by file into a
folder that holds others, or as a folder that appears and goes at once. Locks.
"""

import errno
import logging
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from convmodel.errors import SaveError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger(__name__)


def require_writable(folder: str | os.PathLike[str]) -> None:
    """Checks, before work begins, that files can be written into a folder; makes the folder if it is missing.

    Raises:
        SaveError: If they cannot.
    """
    with staged(folder):
        pass


_STAGE = ".convmodel-"


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
    if not os.fspath(folder):
        raise SaveError("the folder to write has no name")
    place = Path(folder)
    made = [path for path in (place, *place.parents) if not path.exists()]
    stage = None
    try:
        # Inside the place, so that moving a file in is a rename on one file system.
        stage = _make_stage(place)
        (stage / "new").mkdir()
        yield stage / "new"
        _sync(stage / "new")
        _move_in(stage, place)
        _sync_entry(place)
    except SaveError:
        raise
    except OSError as error:
        raise SaveError(f"{place} cannot be written: {error.strerror or error}; choose another folder") from error
    finally:
        if stage is not None:
            shutil.rmtree(stage, ignore_errors=True)
        for path in made:
            with suppress(OSError):  # not empty, or another process was quicker
                path.rmdir()


@contextmanager
def staged_folder(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives a folder to write into, which is renamed to its place when the block ends well.

    Unlike `staged`, there is never a moment at which the place holds a part of the files, even where the program is
    killed or the power fails. What the place held before goes.

    Raises:
        SaveError: If the place cannot be written; it is as it was.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as place:
        ...     with staged_folder(Path(place, "checkpoint-1")) as stage:
        ...         _ = (stage / "config.json").write_text("{}")
        ...     print([path.name for path in Path(place).iterdir()])
        ['checkpoint-1']
    """
    place = Path(folder)
    stage = None
    try:
        stage = _make_stage(place.parent)
        (stage / "new").mkdir()
        yield stage / "new"
        _sync(stage / "new")
        if place.exists():
            place.rename(stage / "old")
        (stage / "new").rename(place)
        _sync_entry(place.parent)
    except SaveError as error:
        raise SaveError(str(error).replace(str(stage and stage / "new"), str(place))) from error
    except OSError as error:
        raise SaveError(f"{place} cannot be written: {error.strerror or error}; choose another folder") from error
    finally:
        if stage is not None:
            shutil.rmtree(stage, ignore_errors=True)


def replace_text(path: Path, text: str) -> None:
    """Writes a text file in an existing folder, so that it is never there by half; an earlier one is replaced.

    Raises:
        SaveError: If the file cannot be written.
    """
    part = path.parent / f".{path.name}.{secrets.token_hex(4)}"
    try:
        part.write_text(text, encoding="utf-8")
        part.replace(path)
    except OSError as error:
        raise SaveError(f"{path} cannot be written: {error.strerror or error}; choose another file") from error
    finally:
        part.unlink(missing_ok=True)


def lock(descriptor: int) -> bool:
    """Keeps other processes from locking an open file or folder, until it is closed or this process ends.

    Returns:
        Whether it is ours; also where the system or its disk has no locks.
    """
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        logger.debug("this file system has no locks")
    return True


def remove_folder(folder: Path) -> None:
    """Removes a folder that `staged_folder` made; killed on the way, it leaves no half of it in its place."""
    stage = Path(tempfile.mkdtemp(prefix=_STAGE, dir=folder.parent))
    folder.rename(stage / "old")
    shutil.rmtree(stage, ignore_errors=True)


def remove_leftovers(folder: Path) -> None:
    """Removes what processes that were killed while writing into a folder left there."""
    for path in folder.glob(f"{_STAGE}*"):
        shutil.rmtree(path, ignore_errors=True)


def _make_stage(place: Path, tries: int = 4) -> Path:
    """Makes a folder to stage in, in a place that is made if it is missing."""
    try:
        place.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=_STAGE, dir=place))
    except FileNotFoundError:  # another process, which had made the place too, has just removed it again
        if tries == 1:
            raise
        return _make_stage(place, tries - 1)


def _sync(folder: Path) -> None:
    """Waits until a folder's files are on the disk: a rename may get there before what it renames."""
    for path in (*folder.rglob("*"), folder):
        if path.is_dir():
            _sync_entry(path)
        else:
            with path.open("rb+") as file:
                os.fsync(file.fileno())


def _sync_entry(folder: Path) -> None:
    """Waits until a folder's list of names is on the disk."""
    if os.name == "nt":
        return  # which cannot open folders, and needs no such thing
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _move_in(stage: Path, place: Path) -> None:
    """Moves the staged files to their place; if one cannot be moved, puts the old ones back."""
    old = stage / "old"
    old.mkdir()
    paths = sorted((stage / "new").iterdir())
    for path in paths:
        if (place / path.name).is_dir():
            raise IsADirectoryError(errno.EISDIR, f"{path.name} is a folder")
        if (place / path.name).exists():
            _link(place / path.name, old / path.name)
    moved: list[Path] = []
    try:
        for path in paths:
            moved.append(path)
            path.replace(place / path.name)
    except BaseException:
        for path in moved:
            if (old / path.name).exists():
                (old / path.name).replace(place / path.name)
            elif not path.exists():
                (place / path.name).unlink(missing_ok=True)
        raise


def _link(source: Path, target: Path) -> None:
    """Gives a file a second name, or makes a copy where the file system has no links."""
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)
