"""What the commands show.

Owns: the two places text goes to (results to standard output, everything else to standard error), tables, and
loading a model with a word about it.
"""

import json
import math
import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from convmodel.errors import ModelLoadError, SaveError
from convmodel.files.hub import ADAPTER_CONFIG, CHITCHAT
from convmodel.training.resume.run_folder import RUN

if TYPE_CHECKING:
    from convmodel.model import ConversationModel


def _rank() -> int:
    """Reads what torchrun sets; a RANK alone may be anybody's."""
    try:
        rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    except (KeyError, ValueError):
        return 0
    return rank if world > 1 else 0


RANK = _rank()
"""Which of several processes that train together this is; the first one speaks for all."""

console = Console(stderr=True, quiet=RANK > 0)
"""For people: progress, tables beside results, errors."""

DEFAULT_MODEL = "model"
"""The folder that `fit` writes, and that other commands read if it is there, unless told otherwise."""

MODEL_MARKS = ("config.json", ADAPTER_CONFIG, RUN)
"""Files by which a folder with a model is known; one may be called `model` and hold none."""


def program() -> str:
    """Returns what a reader has to type to start this program again: its name, or its path where it is not found."""
    started = Path(sys.argv[0])
    if shutil.which("convmodel") or started.name != "convmodel":
        return "convmodel"
    return os.path.relpath(started)


def print_result(text: str) -> None:
    """Writes a result to standard output as it is."""
    if RANK == 0:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


def print_json(result: Mapping[str, Any]) -> None:
    """Writes a result to standard output for machines."""
    print_result(json.dumps({name: _finite(value) for name, value in result.items()}, ensure_ascii=False))


def _finite(value: Any) -> Any:
    """JSON has no infinity and no NaN."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def print_table(
    columns: Sequence[str], rows: Sequence[Sequence[str]], *, to: Console | None = None, text: bool = False
) -> None:
    """Draws a table of results: numbers, on the right, or text as it is."""
    table = Table(*columns[:1], box=None, pad_edge=False, header_style="bold", leading=int(text))
    for name in columns[1:]:
        table.add_column(name, justify="left" if text else "right")
    for row in rows:
        table.add_row(*map(Text, row) if text else row)
    (to or Console(quiet=RANK > 0)).print(table)


def require_free(
    folder: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    what: str = "a model",
    marks: Sequence[str] = MODEL_MARKS,
) -> None:
    """Checks that nothing of the user's would be replaced by saving a model, or something else.

    Args:
        folder: Where it is to be saved.
        overwrite: Whether what is of the same kind may be replaced.
        what: What is saved.
        marks: Files by which a folder that holds such a thing is known.

    Raises:
        SaveError: If the folder holds such a thing and `overwrite` was not asked for, or something else.
    """
    place = Path(folder)
    if place.exists() and not place.is_dir():
        raise SaveError(f"{place} cannot be written: it is a file; give another --output-dir")
    if any((place / mark).exists() for mark in marks):
        if not overwrite:
            raise SaveError(f"{place} already holds {what}: give another --output-dir, or --overwrite to replace it")
    elif place.is_dir() and any(place.iterdir()):
        raise SaveError(f"{place} holds something else: give another --output-dir")


def load_model(name: str, **options: Any) -> "ConversationModel":
    """Loads a model, says so while it takes, and keeps transformers' own words and bars away.

    Raises:
        ModelLoadError: If there is no such model.
    """
    if name == DEFAULT_MODEL and not Path(name).exists():
        raise ModelLoadError(f"there is no folder {name} yet: `convmodel fit` writes one; {CHITCHAT} needs none")
    with console.status(f"loading {name} ..."):
        quieten_transformers()
        from convmodel.model import ConversationModel

        return ConversationModel.from_pretrained(name, **options)


def quieten_transformers() -> None:
    """Keeps transformers' own words and bars away."""
    import huggingface_hub.utils.logging as hub_logging
    from transformers.utils import logging

    hub_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()
    logging.disable_progress_bar()
