"""Options of every command that uses a model.

Owns: their names and help texts, the default model, and the default sampling.
"""

from pathlib import Path
from typing import Annotated, Any

from typer import Option

from convmodel.cli.console import DEFAULT_MODEL, MODEL_FILES
from convmodel.files.hub import CHITCHAT

MODEL_HELP = f"A model: a folder, a model id on the Hub, or {CHITCHAT}."
ModelOption = Annotated[
    str | None,
    Option("--model", "-m", help=f"{MODEL_HELP} [default: the folder {DEFAULT_MODEL} if it exists, else {CHITCHAT}]"),
]
QuantizeOption = Annotated[
    str | None,
    Option(help="int8: quantize the weights, for less than half the memory and about half the time, on CPUs."),
]
GreedyOption = Annotated[bool, Option("--greedy", help="Take the most likely token at each step instead of sampling.")]
TemperatureOption = Annotated[
    float, Option(min=0.01, help="Sampling temperature: above 1 more varied, below 1 more predictable.")
]
TopPOption = Annotated[
    float, Option(min=0.01, max=1.0, help="Sample from the most likely tokens with this total probability.")
]
MaxNewTokensOption = Annotated[
    int | None,
    Option(
        min=1,
        help="Maximum length of a response in tokens. [default: 128, or a quarter of the model's positions if fewer]",
    ),
]
JsonOption = Annotated[bool, Option("--json", help="Print the result as JSON.")]


def default_model() -> str:
    """Returns the model that `fit` saved in the current folder, or the built-in one if there is none."""
    return DEFAULT_MODEL if any((Path(DEFAULT_MODEL) / file).is_file() for file in MODEL_FILES) else CHITCHAT


def sampling_options(*, greedy: bool, temperature: float, top_p: float, max_new_tokens: int | None) -> dict[str, Any]:
    """Returns the options of `ConversationModel.generate` for these flags."""
    sampling = {} if greedy else {"do_sample": True, "temperature": temperature, "top_p": top_p, "top_k": 0}
    return sampling if max_new_tokens is None else sampling | {"max_new_tokens": max_new_tokens}
