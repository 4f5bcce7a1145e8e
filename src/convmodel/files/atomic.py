"""Folders on disk, written whole or not at all.

Owns: staging files next to their destination and moving them there when all are written and synced: file by file into
a folder that has other files, or as a folder that appears and disappears atomically. Locks.
"""

import errno
import logging
import os
import secrets
import shutil
import stat
import sys
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


_PREFIX = ".convmodel-"  # of the names of staging folders


def require_writable(folder: str | os.PathLike[str]) -> None:
    """Checks, before work begins, that files can be written into a folder; raises `SaveError` if they cannot."""
    with staged(folder):
        pass


@contextmanager
def staged(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a folder to write into, and moves its files to the destination when the block succeeds.

    A block that fails leaves the destination unchanged. Other files in it stay; a folder replaces the one of its
    name as a whole.

    Raises:
        SaveError: If the destination cannot be written.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as place:
        ...     with staged(Path(place, "model")) as stage:
        ...         _ = (stage / "config.json").write_text("{}")
        ...     print(Path(place, "model", "config.json").read_text())
        {}
    """
    if not isinstance(folder, str | os.PathLike):
        raise SaveError(f"the folder to write is a {type(folder).__name__}: give its name")
    if not os.fspath(folder):
        raise SaveError("the folder to write has no name")
    place = Path(folder)
    created = [path for path in (place, *place.parents) if not path.exists()]
    try:
        # Inside the destination, so that moving a file is a rename on one file system.
        with _stage(place, inside=place) as stage:
            yield stage / "new"
            _sync(stage / "new")
            _move_in(stage, place)
            _sync_entry(place)
    finally:
        for path in created:
            with suppress(OSError):  # not empty, or already removed by another process
                path.rmdir()


@contextmanager
def staged_folder(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Yields a folder to write into, which is renamed to its destination when the block succeeds.

    Unlike with `staged`, the destination never has only a part of the files, even if the process is killed or the
    power fails. A folder that was there before is deleted.

    Raises:
        SaveError: If the destination cannot be written; it is unchanged.

    Example:
        >>> import tempfile
        >>> with tempfile.TemporaryDirectory() as place:
        ...     with staged_folder(Path(place, "checkpoint-1")) as stage:
        ...         _ = (stage / "config.json").write_text("{}")
        ...     print([path.name for path in Path(place).iterdir()])
        ['checkpoint-1']
    """
    place = Path(folder)
    with _stage(place, inside=place.parent) as stage:
        yield stage / "new"
        _sync(stage / "new")
        if place.exists():
            place.rename(stage / "old")
        (stage / "new").rename(place)
        _sync_entry(place.parent)


@contextmanager
def _stage(place: Path, *, inside: Path) -> Iterator[Path]:
    """Yields a staging folder with an empty folder `new`; errors in the block become `SaveError`s about `place`."""
    stage = None
    try:
        stage = _make_stage(inside)
        (stage / "new").mkdir()
        yield stage
    except SaveError as error:  # of a file that was saved into the staging folder
        raise SaveError(str(error).replace(str(stage and stage / "new"), str(place))) from error
    except OSError as error:
        raise SaveError(f"{place} cannot be written: {error.strerror or error}; choose another folder") from error
    finally:
        if stage is not None:
            shutil.rmtree(stage, ignore_errors=True)


def replace_text(path: Path, text: str) -> None:
    """Writes a text file in an existing folder, so that it is never there by half; an earlier one is replaced.

    It is on the disk when this returns: after a power failure there is the new file or the earlier one, never an empty
    one. A device or a pipe, such as `/dev/null`, is written to and stays.

    Raises:
        SaveError: If the file cannot be written.
    """
    part = path.parent / f".{path.name}.{secrets.token_hex(4)}"
    try:
        if path.exists() and not path.is_file():
            path.write_text(text, encoding="utf-8", newline="\n")
            return
        with part.open("w", encoding="utf-8", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
        _sync_entry(path.parent)
    except OSError as error:
        raise SaveError(f"{path} cannot be written: {error.strerror or error}; choose another file") from error
    finally:
        with suppress(OSError):  # the first error is the one to report
            part.unlink()


def lock(descriptor: int, *, wait: bool = False) -> bool:
    """Locks an open file or folder against other processes, until it is closed or this process ends.

    False if another process has locked it, unless to `wait` for that; True also where the system or file system has no
    locks.
    """
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    except OSError:
        logger.debug("the file system has no locks")
    return True


def remove_folder(folder: Path) -> None:
    """Removes a folder written by `staged_folder`, so that a kill never leaves a part of it in its place."""
    stage = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=folder.parent))
    folder.rename(stage / "old")
    shutil.rmtree(stage, ignore_errors=True)


def is_leftover(path: Path) -> bool:
    """Checks whether this is a staging folder, which only killed processes leave behind."""
    return path.name.startswith(_PREFIX)


def remove_leftovers(folder: Path) -> None:
    """Removes the staging folders that killed processes left in a folder."""
    for path in filter(is_leftover, folder.iterdir() if folder.is_dir() else ()):
        shutil.rmtree(path, ignore_errors=True)


def _make_stage(place: Path, tries: int = 4) -> Path:
    """Creates a staging folder in `place`, which is created if missing."""
    try:
        place.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix=_PREFIX, dir=place))
    except FileNotFoundError:  # another process that had created the place has just removed it
        if tries == 1:
            raise
        return _make_stage(place, tries - 1)


def _sync(folder: Path) -> None:
    """Syncs a folder's files to disk: a rename may reach it before the renamed files do.

    Every file gets the mode of a new one; safetensors makes its files unreadable for others.
    """
    mode = stat.S_IMODE(folder.stat().st_mode) & 0o666
    for path in (*folder.rglob("*"), folder):
        if path.is_dir():
            _sync_entry(path)
        else:
            path.chmod(mode)
            with path.open("rb+") as file:
                os.fsync(file.fileno())


def _sync_entry(folder: Path) -> None:
    """Syncs a folder's list of names to disk."""
    if sys.platform == "win32":
        return  # Windows cannot open folders, and does not need to
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except PermissionError:  # a folder may be writable and not readable
        return
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _move_in(stage: Path, place: Path) -> None:
    """Moves the staged files and folders to their destination; if one cannot be moved, restores the old ones."""
    old = stage / "old"
    old.mkdir()
    paths = sorted((stage / "new").iterdir())
    for path in paths:
        target = place / path.name
        if target.is_dir() and not path.is_dir():
            raise IsADirectoryError(errno.EISDIR, f"{path.name} is a folder")
        if target.exists() and not target.is_dir():
            _link(target, old / path.name)
    moved: list[Path] = []
    try:
        for path in paths:
            moved.append(path)
            if (place / path.name).is_dir():
                (place / path.name).replace(old / path.name)  # a rename replaces a file, but no folder with files
            path.replace(place / path.name)
    except BaseException:
        for path in moved:
            _restore(path, old / path.name, place / path.name)
        raise


def _restore(new: Path, old: Path, target: Path) -> None:
    """Undoes the move of a staged file or folder, which may have failed: `old` is what was there before, if any."""
    if not new.exists() and (target.is_dir() or not old.exists()):  # a file is replaced by the old one directly
        target.replace(new)
    if old.exists():
        old.replace(target)


def _link(source: Path, target: Path) -> None:
    """Hard-links a file, or copies it where the file system has no links."""
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copy2(source, target)
