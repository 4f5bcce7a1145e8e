"""The command of a preparation that reads a client's files: `convmodel import`, and its results.

Owns: its arguments, the folders that it reads and writes, and how much of its summary is kept. What it says is in
`convmodel.data.importing`, when it runs in `preparation_queue`.
"""

import json
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from convmodel.data.importing.splitting import PARTS, TOO_FEW
from convmodel.server.fine_tuning.preparation_store import PreparationSpec
from convmodel.server.fine_tuning.source_names import disk_names

INPUT, OUTPUT = "input", "data"
"""The folders of a preparation: its files under names that the importer knows, and what it made of them."""

SHOWN = 100
"""Entries of a list or a table of the summary that are kept, and speakers."""

LARGEST_RESULT = 16 * 2**20
"""Bytes of a command's result that are read; parsing it holds up the server."""

_LONGEST_TEXT = 2000  # characters that are kept

_SPLITS = ("0.9,0.1,0", "1,0,0")  # nobody measures a test part here; of a single conversation, no part can be set aside


def import_command(command: Sequence[str], spec: PreparationSpec, *, alone: bool) -> list[str]:
    """Returns the command that imports the files of a preparation, in the folder `INPUT`, and prints the summary.

    Args:
        command: `convmodel`.
        spec: The preparation.
        alone: Whether there are too few conversations for a validation file.
    """
    me = [] if spec.me is None else [f"--me={spec.me}"]  # it may begin with a hyphen
    flags = ["--merge-others"] * spec.merge_others + ["--redact"] * spec.redact
    options = ["--output", f"../{OUTPUT}", "--split", _SPLITS[alone], "--on-error", spec.on_error, "--json"]
    return [*command, "import", *options, *me, *flags, "--", *disk_names(spec.filenames)]


def is_too_few(message: str) -> bool:
    """Returns whether an import failed since there are too few conversations for a validation file."""
    return TOO_FEW in message


def lay_out(folder: Path, paths: Sequence[Path], names: Sequence[str]) -> None:
    """Puts files under their clients' names into the folder of a preparation, and removes what an earlier import left.

    Raises:
        OSError: If a file is missing, or two have one name, or the disk is full.
    """
    clear(folder)
    for path, name in zip(paths, disk_names(names), strict=True):
        place = folder / INPUT / name
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(path, place)
        except (FileNotFoundError, FileExistsError):  # what is there may be a link: writing would change another upload
            raise
        except OSError:  # a file system without links
            shutil.copyfile(path, place)


def clear(folder: Path) -> None:
    """Removes the files of an import, which are a copy of what people wrote."""
    for name in (INPUT, OUTPUT):
        shutil.rmtree(folder / name, ignore_errors=True)


def made_files(folder: Path) -> dict[str, Path]:
    """Returns the files that an import has written, by part."""
    paths = {part: folder / OUTPUT / f"{part}.jsonl" for part in PARTS}
    return {part: path for part, path in paths.items() if path.is_file()}


def read_result(path: Path) -> dict[str, Any] | None:
    """Returns the JSON object that a command has printed; None if it has not ended, or is too large."""
    with suppress(OSError, ValueError, RecursionError):
        if path.stat().st_size <= LARGEST_RESULT and isinstance(result := json.loads(path.read_bytes()), dict):
            return result
    return None


def is_too_large(path: Path) -> bool:
    """Returns whether a command has printed more than is read."""
    with suppress(OSError):
        return path.stat().st_size > LARGEST_RESULT
    return False


def speakers_of(summary: dict[str, Any]) -> list[dict[str, Any]]:
    """Returns the speakers of an import's summary, those with most turns first.

    Example:
        >>> speakers_of({"speaker_turns": {"Ann": 1, "Bob": 3}, "first_words": {"Ann": "Hi", "Bob": "Yes"}})[0]
        {'name': 'Bob', 'turns': 3, 'first_words': 'Yes'}
    """
    turns, words = summary["speaker_turns"], summary["first_words"]
    names = sorted(turns, key=lambda name: -turns[name])
    return [{"name": name, "turns": turns[name], "first_words": words.get(name, "")} for name in names]


def shortened(value: Any) -> Any:
    """Returns a JSON value with at most `SHOWN` entries in each list and table, and no long texts.

    Of counts, the largest stay.

    Example:
        >>> len(shortened(["a"] * 1000)), [*shortened({str(number): number for number in range(1000)})][0]
        (100, '999')
    """
    if isinstance(value, dict):
        entries = [*value.items()]
        if len(entries) > SHOWN and all(isinstance(count, int) for _, count in entries):
            entries.sort(key=lambda entry: -entry[1])
        return {key[:_LONGEST_TEXT]: shortened(item) for key, item in entries[:SHOWN]}
    if isinstance(value, list):
        return [shortened(item) for item in value[:SHOWN]]
    return value[:_LONGEST_TEXT] if isinstance(value, str) else value
