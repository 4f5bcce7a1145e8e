"""The folder of a run: its identity, whether it has finished, and its checkpoints.

Owns: `run.json`, the names of checkpoints, which of them stay, and which one a run resumes from. Does not know what a
checkpoint holds, and imports nothing heavy, since the command line uses it too.
"""

import logging
import os
import re
import secrets
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from convmodel.errors import ConfigError, SaveError
from convmodel.files.atomic import lock, remove_folder, remove_leftovers, staged, staged_folder
from convmodel.files.checked_json import checked_text, read_checked
from convmodel.hf_model.fingerprint import differing_facts
from convmodel.layout.config import FILE_NAME
from convmodel.training.resume.manifest import MANIFEST, damage, read_facts, write_manifest

logger = logging.getLogger(__name__)

RUN = "run.json"

NEWEST = 2
"""Checkpoints that are there to resume from: if the newest is damaged, the one before it serves."""

_FIELDS = {"format": int, "run": str, "finished": bool, "identity": dict}


def is_unfinished(folder: str | os.PathLike[str]) -> bool:
    """Returns whether a folder holds a run that has begun and, as far as its files tell, not finished."""
    facts = _read(Path(folder))
    return facts is not None and not facts["finished"]


def is_finished(folder: str | os.PathLike[str]) -> bool:
    """Returns whether a folder holds a run that has finished."""
    facts = read_checked(Path(folder) / RUN, _FIELDS)
    return facts is not None and bool(facts["finished"])


def newest_step(folder: str | os.PathLike[str]) -> int:
    """Returns the update after which the newest checkpoint was saved; 0 without one, and without the folder."""
    return max(map(_step, _checkpoints(Path(folder))), default=0)


class RunFolder:
    """One run's folder, where the newest `limit` checkpoints to keep stay, or all if it is 0."""

    def __init__(self, folder: str | os.PathLike[str], identity: dict[str, Any], *, limit: int = 0) -> None:
        self._folder = Path(folder)
        self._identity = identity
        self._limit = limit
        self._id = ""
        self._earlier: set[Path] = set()  # checkpoints that were there when a new run began
        self._locked: int | None = None

    def find(self, resume: bool | None) -> Path | None:
        """Returns the newest intact checkpoint, to resume from, or None to start a new run. Changes nothing.

        Args:
            resume: True requires an unfinished run, False ignores one; None resumes one if it exists.
        """
        if resume is False:
            return None
        facts = _read(self._folder)
        has_model = any(self._folder.glob("*.safetensors"))
        if facts is None and has_model and (self._folder / RUN).exists():
            raise ConfigError(
                f"{self._folder / RUN} is damaged, and there is no intact checkpoint, so it is unknown which run wrote "
                "the model there: give another output_dir (--output-dir), or resume=False (--no-resume) to replace it"
            )
        if facts is None or facts["finished"]:
            if resume:
                raise ConfigError(f"{self._folder} holds no unfinished run: leave resume out to start one")
            return None
        run = facts["run"]
        if read_checked(self._folder / RUN, _FIELDS) is None:
            logger.warning("%s is damaged or missing: its run is known from the checkpoints", self._folder / RUN)
        newest = self._newest(run)
        # A checkpoint whose manifest cannot be read may belong to this run.
        damaged = [path for path in self._checkpoints() if _is_ours(path) and read_facts(path).get("run", run) == run]
        if newest is None and damaged:
            names = ", ".join(path.name for path in damaged)
            raise ConfigError(
                f"all checkpoints of the run in {self._folder} are damaged ({names}): resume=False (--no-resume) "
                "starts a new run and replaces them; another output_dir (--output-dir) keeps them"
            )
        changed = differing_facts(facts["identity"], self._identity)
        if changed and (resume or newest or has_model):
            raise ConfigError(
                f"{self._folder} holds an unfinished run that differs ({'; '.join(changed)}): give the same options to "
                "resume it, another output_dir (--output-dir), or resume=False (--no-resume) to start a new one; a "
                "model that was trained after loading must be loaded again"
            )
        return newest

    def begin(self, checkpoint: Path | None) -> None:
        """Takes over the folder, to resume from a checkpoint or to start a new run.

        The files of an earlier run stay until this one saves its first checkpoint or finishes.
        """
        with suppress(OSError):  # writing into it raises the error for the user
            self._folder.mkdir(parents=True, exist_ok=True)
        self.lock()
        remove_leftovers(self._folder)
        if checkpoint is None:
            self._id = secrets.token_hex(8)
            self._earlier = {path for path in self._checkpoints() if _is_ours(path)}
        else:
            self._id = read_facts(checkpoint)["run"]
        self._write(finished=False)

    def close(self) -> None:
        """Unlocks the folder for other processes."""
        if self._locked is not None:
            os.close(self._locked)
            self._locked = None

    def lock(self) -> None:
        """Locks the folder, if it exists, until `close` or the end of this process, however it ends."""
        if sys.platform == "win32" or self._locked is not None or not self._folder.is_dir():
            return  # Windows cannot open folders
        self._locked = os.open(self._folder, os.O_RDONLY)
        if not lock(self._locked):
            self.close()
            raise SaveError(f"another process is training into {self._folder}: wait for it, or end it")

    def checkpoint(self, step: int) -> Path:
        """Returns the folder of the checkpoint after this step."""
        return self._folder / f"checkpoint-{step}"

    def add(self, step: int, write: Callable[[Path], None], *, keep: bool) -> None:
        """Saves a checkpoint, whole or not at all, and then removes those that are no longer needed.

        `write` writes its files into a folder. Without `keep` it is temporary: it is removed when there are `NEWEST`
        newer ones, or the run has finished, and does not count against the limit.
        """
        place = self.checkpoint(step)
        if place.exists() and not _is_ours(place):
            raise SaveError(f"{place} was not saved by convmodel, and is not replaced: move it away and resume")
        try:
            with staged_folder(place) as stage:
                write(stage)
                write_manifest(stage, {"run": self._id, "step": step, "keep": keep, "identity": self._identity})
        except SaveError as error:
            earlier = self._checkpoints(self._id)
            fix = f"; once that is fixed, the same options resume from {earlier[-1]}" if earlier else ""
            raise SaveError(f"{error}{fix}") from error
        self._earlier.discard(place)
        self._remove_earlier()
        # Later ones are damaged, since the run resumed before them: they do not count against the limit.
        intact = [path for path in self._checkpoints(self._id) if _step(path) <= step]
        kept = [path for path in intact if read_facts(path)["keep"]]
        temporary = {*intact[:-NEWEST]} - {*kept}
        for old in (*temporary, *(kept[: -self._limit] if self._limit else ())):
            remove_folder(old)

    def finish(self) -> None:
        """Marks the run as finished, and removes the checkpoints that served only to resume from."""
        self._write(finished=True)
        self._remove_earlier()
        for path in self._checkpoints():
            facts = read_facts(path)
            if not facts and _is_ours(path):
                logger.warning("%s is damaged and no longer needed: remove it", path)
            elif facts.get("run") == self._id and not facts["keep"]:
                remove_folder(path)

    def _remove_earlier(self) -> None:
        """Removes the checkpoints of earlier runs; one that is not convmodel's, or that may be of this run, stays."""
        for old in self._checkpoints():
            if old in self._earlier or read_facts(old).get("run", self._id) != self._id:
                logger.info("removing %s, which belongs to an earlier run", old)
                remove_folder(old)

    def _newest(self, run: str) -> Path | None:
        for path in reversed(self._checkpoints()):
            problem = "it belongs to another run" if read_facts(path).get("run", run) != run else damage(path)
            if not problem:
                return path
            logger.warning("skipping %s, which cannot be used: %s", path, problem)
        return None

    def _checkpoints(self, run: str = "") -> list[Path]:
        """Lists the folders with names of checkpoints, by step; only those of one run if it is passed."""
        paths = _checkpoints(self._folder)
        return [path for path in paths if read_facts(path).get("run") == run] if run else paths

    def _write(self, *, finished: bool) -> None:
        facts = {"format": 1, "run": self._id, "finished": finished, "identity": self._identity}
        with staged(self._folder) as stage:
            (stage / RUN).write_bytes(checked_text(facts).encode())


_NAME = re.compile(r"checkpoint-(\d+)")


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.partition("-")[2])


def _checkpoints(folder: Path) -> list[Path]:
    """Lists the folders with names of checkpoints, by step.

    Also while another process trains into the folder: a `fit` that starts makes it to see whether it can, and removes
    it again.
    """
    with suppress(FileNotFoundError, NotADirectoryError):
        paths = [path for path in folder.iterdir() if _NAME.fullmatch(path.name) and path.is_dir()]
        return sorted(paths, key=_step)
    return []


def _is_ours(checkpoint: Path) -> bool:
    """Returns whether convmodel saved a checkpoint, even if its manifest is lost; `Trainer` writes neither file."""
    return (checkpoint / MANIFEST).exists() or (checkpoint / FILE_NAME).exists()


def _read(folder: Path) -> dict[str, Any] | None:
    """Returns the facts in `run.json`, or what checkpoints tell of them if it is damaged or lost; None without any."""
    facts = read_checked(folder / RUN, _FIELDS)
    if facts is not None:
        return facts
    checkpoints = [path for path in reversed(_checkpoints(folder)) if _is_ours(path)]
    known = next(filter(None, map(read_facts, checkpoints)), {"run": ""})
    # Checkpoints of convmodel 0.4 do not record the identity.
    return {"identity": {}} | known | {"finished": False} if checkpoints else None
