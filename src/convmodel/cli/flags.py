"""Flags that several commands have.

Owns: their names and help texts, and what their values mean: a reader, the default model, the options of sampling.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

from typer import Option

from convmodel.cli.console import DEFAULT_MODEL, MODEL_FILES
from convmodel.data.reading.decoding import STDIN
from convmodel.data.reading.reader import ConversationReader
from convmodel.data.reading.shapes import SHAPES
from convmodel.errors import ConfigError
from convmodel.files.hub import CHITCHAT
from convmodel.generation.defaults import CHAT_SAMPLING, TEMPERATURE, TOP_P

SOURCE_HELP = "a file, a folder, - for standard input, or owner/name of a dataset on the Hub"
MODEL_SOURCES = f"a folder, a GGUF file, a model id on the Hub, or {CHITCHAT}"
MODEL_HELP = f"Model: {MODEL_SOURCES}."
_FORMAT_HELP = f"Format of the data: auto (recognize it) or one of {', '.join(SHAPES)}; see docs/data.md."
DEFAULT_HELP = f"[default: the folder {DEFAULT_MODEL} if it exists, else {CHITCHAT}]"
_LENGTH_HELP = "Maximum length of a response in tokens. [default: 128, or a quarter of the model's positions if fewer]"

Data = Annotated[str, Option(help=f"Conversations: {SOURCE_HELP}.")]
Valid = Annotated[str | None, Option(help="Validation conversations, which select the best checkpoint.")]
Format = Annotated[str, Option("--format", help=_FORMAT_HELP)]
Feedback = Annotated[
    list[str],
    Option(
        "--feedback",
        "-f",
        help="Judgements: what `serve --feedback`, `serve --votes` and `convmodel compare` write, or preference "
        "data of other programs; may be repeated.",
    ),
]
OnError = Annotated[
    str, Option("--on-error", help="What to do with invalid rows: fail at the first one, or skip and count them.")
]
Model = Annotated[str | None, Option("--model", "-m", help=f"{MODEL_HELP} {DEFAULT_HELP}")]
Quantize = Annotated[
    str | None,
    Option(
        help="int8: quantize the weights, for about a quarter of their memory and a third to half of the time, on CPUs."
    ),
]
Layout = Annotated[
    str,
    Option(
        help="Token layout of a model that convmodel did not save: template (the model's own chat template), "
        "separator, or auto: the template if it has one."
    ),
]
Names = Annotated[
    str | None,
    Option(help="prefix: in the template layout, put speakers' names before their texts; for more than two speakers."),
]
TokenTypes = Annotated[
    str | None,
    Option(
        metavar="on|off",
        help="Whether a model in the separator layout gets the speakers as token types; llama.cpp and vLLM need off. "
        "[default: on if the architecture has them, as GPT-2 does]",
    ),
]
Greedy = Annotated[bool, Option("--greedy", help="Take the most likely token at each step instead of sampling.")]
Temperature = Annotated[
    float, Option(min=0.01, help="Sampling temperature: above 1 more varied, below 1 more predictable.")
]
TopP = Annotated[
    float, Option(min=0.01, max=1.0, help="Sample from the most likely tokens with this total probability.")
]
OwnTemperature = Annotated[
    float | None,
    Option(
        min=0.01,
        help="Sampling temperature: above 1 more varied, below 1 more predictable; by default the model's own, else "
        f"{TEMPERATURE}, and with --url {TEMPERATURE}.",
    ),
]
OwnTopP = Annotated[
    float | None,
    Option(
        min=0.01,
        max=1.0,
        help="Sample from the most likely tokens with this total probability; by default the model's own, else "
        f"{TOP_P}, and with --url {TOP_P}.",
    ),
]
MaxNewTokens = Annotated[int | None, Option(min=1, help=_LENGTH_HELP)]
SystemMessages = Annotated[
    bool, Option("--system-messages", help="Accept system messages even if the model was trained without them.")
]
StartOver = Annotated[
    bool, Option("--overwrite", help="Start from the beginning, and replace a model in the output folder.")
]
Json = Annotated[bool, Option("--json", help="Print the result as JSON.")]


def open_reader(source: str, format: str, on_error: str) -> ConversationReader:
    """Returns a reader of a data source with the values of `--format` and `--on-error`, which it checks."""
    return ConversationReader(source, shape=format, on_error=on_error)  # type: ignore[arg-type]


def require_one_stdin(*sources: str | None) -> None:
    """Raises a `ConfigError` if several sources are standard input."""
    if sources.count(STDIN) > 1:
        raise ConfigError(
            f"standard input ({STDIN}) is {sources.count(STDIN)} of the sources: give files for the others"
        )


def default_model() -> str:
    """Returns the model that `fit` saved in the current folder, or the built-in one if there is none."""
    return DEFAULT_MODEL if any((Path(DEFAULT_MODEL) / file).is_file() for file in MODEL_FILES) else CHITCHAT


def parse_token_types(value: str | None) -> bool | None:
    """Returns the argument `use_token_types` for a value of `--token-types`; None by default.

    Example:
        >>> parse_token_types("on"), parse_token_types("off"), parse_token_types(None)
        (True, False, None)
    """
    choices = {None: None, "on": True, "off": False}
    if value not in choices:
        raise ConfigError(f"--token-types {value}: it must be on or off")
    return choices[value]


def parse_value(text: str) -> Any:
    """Returns the value of an option: JSON or, if it is not valid JSON, the text itself.

    Example:
        >>> parse_value("0.5"), parse_value("best_of")
        (0.5, 'best_of')
    """
    try:
        return json.loads(text)
    except ValueError:
        return text


def parse_options(pairs: Sequence[str], example: str = "num_beams=4") -> dict[str, Any]:
    """Returns the options of several `NAME=VALUE`.

    Example:
        >>> parse_options(["num_beams=4", "early_stopping=true"])
        {'num_beams': 4, 'early_stopping': True}
    """
    options = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise ConfigError(f"--option {pair}: write NAME=VALUE, such as {example}")
        options[name] = parse_value(value)
    return options


def sampling_options(*, greedy: bool, temperature: float, top_p: float, max_new_tokens: int | None) -> dict[str, Any]:
    """Returns the options of `ConversationModel.generate` for these flags."""
    # Without `do_sample`, the model's own generation config would decide.
    sampling = {"do_sample": False} if greedy else CHAT_SAMPLING | {"temperature": temperature, "top_p": top_p}
    return sampling if max_new_tokens is None else sampling | {"max_new_tokens": max_new_tokens}
