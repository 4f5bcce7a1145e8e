"""The responses of a model in training, in `samples.jsonl` in the model's folder.

Owns: the format of that file, reading it, and writing it so that a killed and resumed fit has the lines of an
uninterrupted one. Imports nothing heavy, since `convmodel fit` imports it before torch. Does not know how responses are
generated.
"""

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from convmodel.errors import SaveError
from convmodel.files.atomic import staged
from convmodel.files.json_lines import append_line

SAMPLES_FILE = "samples.jsonl"
"""Name of the file in a model's folder."""

SHOWN = "convmodel.training.samples"
"""The logger that shows the responses, at level INFO."""

_FIELDS = {"step": int, "context": list, "expected": str, "response": str}


def read_samples(folder: str | os.PathLike[str]) -> list[dict[str, Any]]:
    """Reads what a fit wrote: `step`, `context` (messages), `expected` and `response`; empty without a file.

    Skips lines that are not such records, as the half-written last one of a killed or running fit.
    """
    return [record for _, record in _lines(Path(folder, SAMPLES_FILE)) if record is not None]


class SamplesFile:
    """Appends responses to `samples.jsonl`.

    A new fit replaces the file; a resumed one continues it.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self._path = Path(folder, SAMPLES_FILE)
        self.last = -1
        """The step of the last responses; -1 without any."""

    def begin(self, step: int, *, written: bool) -> None:
        """Removes what this run writes again: everything after a checkpoint of this step, or, at step 0, all.

        Args:
            step: The step of the checkpoint that the run resumes from; 0 for a new run.
            written: Whether responses will be written. If not, a file of other content stays.

        Raises:
            SaveError: If the file has other content and would be replaced, or cannot be written.
        """
        if not self._path.exists():
            return
        lines = _lines(self._path)
        if lines and all(record is None for _, record in lines):
            if written:
                raise SaveError(f"{self._path} was not written by a fit: move it, or give another output_dir")
            return
        kept = [(line, record["step"]) for line, record in lines if record is not None and record["step"] <= step]
        if step == 0:
            kept = []
        self.last = max((at for _, at in kept), default=-1)
        if not kept:
            self._path.unlink(missing_ok=True)
            return
        with staged(self._path.parent) as stage:
            text = "".join(f"{line}\n" for line, _ in kept)
            (stage / self._path.name).write_text(text, encoding="utf-8", newline="\n")

    def append(self, step: int, records: Sequence[dict[str, Any]]) -> None:
        """Appends the responses at a step, and waits until they are on the disk: a checkpoint may follow.

        Raises:
            SaveError: If the file cannot be written.
        """
        for number, record in enumerate(records, 1):
            whole = {"step": step} | record
            append_line(self._path, whole, fix="make room and resume", sync=number == len(records))
        self.last = step


def _lines(path: Path) -> list[tuple[str, dict[str, Any] | None]]:
    """Returns each line that is not blank, and its record; None if it has none."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return []
    except OSError as error:
        raise SaveError(
            f"{path} cannot be read: {error.strerror or error}; move it, or give another output_dir"
        ) from error
    return [(line.decode(errors="replace"), _record(line)) for line in lines if line.strip()]


def _record(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    is_one = isinstance(record, dict) and all(type(record.get(name)) is kind for name, kind in _FIELDS.items())
    return record if is_one else None
