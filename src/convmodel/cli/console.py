"""Output of the commands.

Owns: the two streams (results to standard output, everything else to standard error), messages, tables, and loading a
model quietly. Does not know the commands.
"""

import json
import math
import os
import shutil
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from convmodel.cli.streams import writes_any_text
from convmodel.data.progress import ProgressBar, console, size_text
from convmodel.errors import ModelLoadError, SaveError
from convmodel.files.atomic import is_leftover
from convmodel.files.download import download, reachable_options, weights_to_download
from convmodel.files.hub import (
    ADAPTER_CONFIG,
    CHITCHAT,
)
from convmodel.training.resume.run_folder import RUN

if TYPE_CHECKING:
    from convmodel.model import ConversationModel


def _rank() -> int:
    """Reads the rank that torchrun sets; RANK without WORLD_SIZE may belong to another program."""
    try:
        rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    except (KeyError, ValueError):
        return 0
    return rank if world > 1 else 0


RANK = _rank()
"""The rank of this process in distributed training; only rank 0 prints."""

console.quiet = RANK > 0

DEFAULT_MODEL = "model"  # the folder that `fit` writes by default, and that other commands read if it exists
MODEL_FILES = ("config.json", ADAPTER_CONFIG, RUN)  # one of these is in a folder with a model


def program() -> str:
    """Returns what a user types to run this program again: its name, or its path if it is not on PATH."""
    executable = Path(sys.argv[0])
    if shutil.which("convmodel") or executable.name != "convmodel":
        return "convmodel"
    return os.path.relpath(executable)


def print_message(text: str, style: str | None = None) -> None:
    """Writes a line to standard error as it is, without markup or line breaks."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def print_result(text: str) -> None:
    """Writes a result to standard output as it is."""
    if RANK == 0:
        sys.stdout.write(text + "\n")
        sys.stdout.flush()


def print_json(result: Mapping[str, Any]) -> None:
    """Writes a result to standard output as one line of JSON."""
    no_json = {name for name, value in result.items() if isinstance(value, float) and not math.isfinite(value)}
    print_result(json.dumps({**result, **dict.fromkeys(no_json)}, ensure_ascii=not writes_any_text()))


def print_table(
    columns: Sequence[str],
    rows: Sequence[Sequence[str | Text]],
    *,
    to: Console | None = None,
    text: bool = False,
    left: Sequence[str] = (),
) -> None:
    """Prints a table of results: numbers aligned to the right, or, with `text`, wrapped text.

    The columns called as in `left` are aligned to the left, as the first column is.
    """
    table = Table(box=None, pad_edge=False, header_style="bold", leading=int(text))
    for index, name in enumerate(columns):
        table.add_column(
            Text(name), justify="right" if index and not text and name not in left else "left", overflow="fold"
        )
    for row in rows:
        table.add_row(*(Text.assemble(cell) for cell in row))
    (to or Console(quiet=RANK > 0)).print(table)


def check_output_dir(
    folder: str | os.PathLike[str],
    *,
    overwrite: bool = False,
    content: str = "a model",
    files: Sequence[str] = MODEL_FILES,
    ignored: Collection[str] = (),
) -> None:
    """Checks that saving replaces nothing that the user wants to keep: only such content, and only with `overwrite`.

    A folder with one of the `files` holds such `content`; those that are `ignored` do not count.
    """
    path = Path(folder)
    if path.exists() and not path.is_dir():
        raise SaveError(f"{path} cannot be written: it is a file; give another --output-dir")
    if any((path / file).exists() for file in files):
        if not overwrite:
            raise SaveError(f"{path} already holds {content}: give another --output-dir, or --overwrite to replace it")
    elif path.is_dir() and not all(is_leftover(each) or each.name in ignored for each in path.iterdir()):
        raise SaveError(f"{path} holds something else: give another --output-dir")


def check_output_file(path: Path) -> None:
    """Checks that a file can be written, before the work that fills it."""
    if path.is_dir() or not path.parent.is_dir():
        raise SaveError(f"{path} cannot be written: give a file in a folder that exists")


def load_model(name: str, **options: Any) -> "ConversationModel":
    """Loads a model behind a status line, without transformers' own messages and progress bars."""
    if name == DEFAULT_MODEL and not Path(name).exists():
        raise ModelLoadError(f"there is no folder {name} yet: `convmodel fit` writes one; {CHITCHAT} needs none")
    with console.status(f"loading {name} ..."):
        options |= reachable_options(name, options)  # before slow imports: a wrong name is an error at once
        sizes = weights_to_download(name, options)
    if sizes:
        total = sum(sizes.values())
        print_message(f"downloading {name}: {size_text(total)}")
        with ProgressBar("downloading", total, unit="bytes") as bar:
            download(name, sizes, options, bar.update)
    with console.status(f"loading {name} ..."):
        silence_transformers()
        from convmodel.model import ConversationModel

        return ConversationModel.from_pretrained(name, **options)


def silence_transformers() -> None:
    """Turns off the messages and progress bars of transformers and huggingface_hub."""
    import huggingface_hub.utils.logging as hub_logging
    from transformers.utils import logging

    hub_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    logging.set_verbosity_error()
    logging.disable_progress_bar()
