"""The options of every command that only uses a model.

Owns: their names and help texts, which model is taken and how it talks unless told otherwise.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from convmodel.cli.console import DEFAULT_MODEL, MODEL_MARKS
from convmodel.files.hub import CHITCHAT

MODEL_HELP = f"A folder, a hub id or {CHITCHAT}."
ModelOption = Annotated[
    str | None,
    typer.Option(
        "--model",
        "-m",
        help=f"{MODEL_HELP} [default: the folder {DEFAULT_MODEL} if there is one, else {CHITCHAT}]",
        show_default=False,
    ),
]
QuantizeOption = Annotated[
    str | None, typer.Option(help="int8: less than half of the memory and about half of the time, on CPUs.")
]
GreedyOption = Annotated[bool, typer.Option("--greedy", help="Always the likeliest response.")]
TemperatureOption = Annotated[float, typer.Option(min=0.01, help="Above 1 bolder, below 1 safer.")]
TopPOption = Annotated[float, typer.Option(min=0.01, max=1.0, help="Sample from this much probability.")]


def chosen_model(name: str | None) -> str:
    """Returns the model that was named, or else what `fit` has written here, or else the one in the package."""
    return name or (DEFAULT_MODEL if any((Path(DEFAULT_MODEL) / mark).is_file() for mark in MODEL_MARKS) else CHITCHAT)


def sampling(*, greedy: bool, temperature: float, top_p: float, max_new_tokens: int | None) -> dict[str, Any]:
    """Returns the options of `generate` for a model that talks."""
    drawing = {} if greedy else {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
    return drawing if max_new_tokens is None else drawing | {"max_new_tokens": max_new_tokens}
