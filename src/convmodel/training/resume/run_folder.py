"""The folder of a run: what it is the run of, whether it has ended, and its checkpoints.

Owns: `run.json`, the names of checkpoints, which of them stay, and which one a run goes on from. Loads nothing heavy:
the command line asks it too.
"""

import json
import logging
import os
import re
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from convmodel.errors import ConfigError, SaveError
from convmodel.files.atomic import lock, remove_folder, remove_leftovers, staged, staged_folder
from convmodel.hf_model.fingerprint import differences
from convmodel.training.resume.manifest import MANIFEST, damage, read_facts, write_manifest

logger = logging.getLogger(__name__)

RUN = "run.json"


def is_unfinished(folder: str | os.PathLike[str]) -> bool:
    """Tells whether a folder holds a run that began and has not ended."""
    return _read(Path(folder)).get("finished") is False


class RunFolder:
    """One run's folder.

    Args:
        folder: Where.
        identity: What makes it this run, as of `run_identity`.
        limit: Checkpoints that stay; older ones are removed. 0 keeps all.
    """

    def __init__(self, folder: str | os.PathLike[str], identity: dict[str, Any], *, limit: int = 0) -> None:
        self._place = Path(folder)
        self._identity = identity
        self._limit = limit
        self._id = ""
        self._locked: int | None = None

    def find(self, resume: bool | None) -> Path | None:
        """Chooses the checkpoint to go on from: the newest that is as it was written. Changes nothing.

        Args:
            resume: Whether there must be an unfinished run (True) or must not matter (False); by default one that is
                there goes on.

        Returns:
            Its folder; None where the run begins anew.

        Raises:
            ConfigError: If the unfinished run is another one, all its checkpoints are damaged, or there is none and
                there must be.
        """
        if resume is False:
            return None
        there = _read(self._place)
        if there.get("finished") is not False:
            if resume:
                raise ConfigError(f"{self._place} holds no unfinished run: leave resume out to begin one")
            return None
        run = there.get("run", "")
        newest = self._newest(run)
        changed = differences(there.get("identity", {}), self._identity)
        if changed and (resume or newest or any(self._place.glob("*.safetensors"))):
            raise ConfigError(
                f"{self._place} holds an unfinished run that differs ({'; '.join(changed)}): give the same options to "
                "go on with it, another output_dir (--output-dir), or resume=False (--no-resume) to begin anew; a "
                "model that learned since it was loaded must be loaded again"
            )
        # A manifest that cannot be read says nothing of the run, so that it may be this one.
        damaged = [path for path in self._checkpoints() if _is_ours(path) and read_facts(path).get("run", run) == run]
        if newest is None and damaged:
            names = ", ".join(path.name for path in damaged)
            raise ConfigError(
                f"of the run in {self._place} all checkpoints are damaged ({names}): resume=False (--no-resume) begins "
                "anew and replaces them"
            )
        return newest

    def begin(self, checkpoint: Path | None) -> None:
        """Makes the folder this run's: it goes on from a checkpoint, or begins anew.

        What an earlier run left stays until this one has something to show.

        Raises:
            SaveError: If the folder cannot be written, or another process trains into it.
        """
        with suppress(OSError):  # which writing into it will say
            self._place.mkdir(parents=True, exist_ok=True)
        self.lock()
        remove_leftovers(self._place)
        if checkpoint is not None:
            self._id = read_facts(checkpoint)["run"]
            return
        self._id = secrets.token_hex(8)
        self._write(finished=False)

    def close(self) -> None:
        """Lets other processes train into the folder."""
        if self._locked is not None:
            os.close(self._locked)
            self._locked = None

    def lock(self) -> None:
        """Keeps others out of the folder, if there is one, until `close` or this process's end, however it ends.

        Raises:
            SaveError: If another process trains into it.
        """
        if os.name == "nt" or self._locked is not None or not self._place.is_dir():
            return  # Windows opens no folders
        self._locked = os.open(self._place, os.O_RDONLY)
        if not lock(self._locked):
            self.close()
            raise SaveError(f"another process is training into {self._place}: wait for it, or end it")

    def checkpoint(self, step: int) -> Path:
        """Names the folder of the checkpoint that is made after an update."""
        return self._place / f"checkpoint-{step}"

    def add(self, step: int, write: Callable[[Path], None], *, keep: bool) -> None:
        """Saves a checkpoint, whole or not at all, and then removes those that are too many.

        Args:
            step: The update after which it is made.
            write: Writes its files into the folder it is given.
            keep: Whether it stays when the run has ended; else it is only there to go on from.

        Raises:
            SaveError: If it cannot be written; earlier ones are as they were.
        """
        there = self.checkpoint(step)
        if there.exists() and not _is_ours(there):
            raise SaveError(f"{there} is no checkpoint of convmodel's, and is not replaced: move it away, and go on")
        try:
            with staged_folder(there) as stage:
                write(stage)
                write_manifest(stage, {"run": self._id, "step": step, "keep": keep})
        except SaveError as error:
            earlier = self._checkpoints(self._id)
            cure = f"; with that cured, the same options go on from {earlier[-1]}" if earlier else ""
            raise SaveError(f"{error}{cure}") from error
        self._remove_earlier()
        # Later ones are those that were damaged; they do not count, and must not push out good ones.
        mine = [path for path in self._checkpoints(self._id) if _step(path) <= step]
        for old in mine[: -self._limit] if self._limit else ():
            remove_folder(old)

    def finish(self) -> None:
        """Notes that the run has ended well, and removes the checkpoints that were only there to go on from.

        Raises:
            SaveError: If the folder cannot be written.
        """
        self._write(finished=True)
        self._remove_earlier()
        for path in self._checkpoints(self._id):
            if not read_facts(path)["keep"]:
                remove_folder(path)

    def _remove_earlier(self) -> None:
        """Removes the checkpoints of earlier runs; a folder that is not convmodel's stays."""
        for old in self._checkpoints():
            if _is_ours(old) and read_facts(old).get("run") != self._id:
                logger.info("removing %s, which an earlier run left", old)
                remove_folder(old)

    def _newest(self, run: str) -> Path | None:
        for path in reversed(self._checkpoints()):
            wrong = "it is another run's" if read_facts(path).get("run", run) != run else damage(path)
            if not wrong:
                return path
            logger.warning("%s cannot be used and is passed over: %s", path, wrong)
        return None

    def _checkpoints(self, run: str = "") -> list[Path]:
        """Lists folders that are named as checkpoints, by their step; of one run, if it is named."""
        found = [path for path in self._place.glob("checkpoint-*") if _NAME.fullmatch(path.name) and path.is_dir()]
        if run:
            found = [path for path in found if read_facts(path).get("run") == run]
        return sorted(found, key=_step)

    def _write(self, *, finished: bool) -> None:
        facts = {"format": 1, "run": self._id, "finished": finished, "identity": self._identity}
        with staged(self._place) as stage:
            (stage / RUN).write_text(json.dumps(facts, indent=1), encoding="utf-8")


_NAME = re.compile(r"checkpoint-(\d+)")


def _step(checkpoint: Path) -> int:
    return int(checkpoint.name.partition("-")[2])


def _is_ours(checkpoint: Path) -> bool:
    return (checkpoint / MANIFEST).exists()  # which `Trainer` of transformers does not write


def _read(folder: Path) -> dict[str, Any]:
    try:
        found = json.loads((folder / RUN).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
