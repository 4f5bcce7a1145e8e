"""`convmodel fit`: fine-tunes a model on conversations."""

from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from convmodel.cli.console import (
    DEFAULT_MODEL,
    console,
    print_json,
    print_table,
    program,
    require_free,
)
from convmodel.cli.data_options import FormatOption, OnErrorOption
from convmodel.cli.fit_options import with_fit_options
from convmodel.cli.model_options import MODEL_HELP
from convmodel.cli.starting_point import BASE_MODEL, Start
from convmodel.data.reading.reader import ConversationReader
from convmodel.data.reading.shapes import AUTO
from convmodel.errors import ConfigError
from convmodel.hf_model.from_scratch import SHAPES
from convmodel.training.config import FitConfig
from convmodel.training.resume.run_folder import is_unfinished
from convmodel.training.units import millions

if TYPE_CHECKING:
    from convmodel.training.fit import FitResult

SHAPES_SHOWN = ", ".join(f"{name} ({millions(shape.parameters)} parameters)" for name, shape in SHAPES.items())


def _fit(
    train: Annotated[
        str,
        typer.Argument(
            help="Conversations to learn from: a file, a folder, - or owner/name of the hub.", metavar="TRAIN"
        ),
    ],
    *,
    valid: Annotated[
        str | None, typer.Option(help="Conversations to choose the best model by.", show_default=False)
    ] = None,
    format: FormatOption = AUTO,
    on_error: OnErrorOption = "fail",
    model: Annotated[
        str | None,
        typer.Option(
            "--model", "-m", help=f"What to start from. {MODEL_HELP} [default: {BASE_MODEL}]", show_default=False
        ),
    ] = None,
    from_scratch: Annotated[
        str | None,
        typer.Option(help=f"Start from a new model instead: {SHAPES_SHOWN}.", show_default=False, metavar="SHAPE"),
    ] = None,
    tokenizer: Annotated[
        str | None,
        typer.Option(
            help="With --from-scratch: the folder of its vocabulary, which `convmodel tokenizer train` makes; by "
            "default one is learned from TRAIN.",
            show_default=False,
        ),
    ] = None,
    grow_vocabulary: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="ENTRIES",
            help="Let the model's vocabulary grow by so many entries for the language of TRAIN, which makes text of "
            "another script several times shorter.",
            show_default=False,
        ),
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Begin anew, and replace a model in the output folder.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    settings: dict[str, Any],
) -> None:
    """Fine-tunes a model on your conversations and saves the best one.

    The data is JSONL, JSON, YAML, CSV, TSV or Parquet in any usual shape: a line is a list of turns, `["Hello", "Hi,
    how are you?", "Good, thanks!"]`, or an object with `turns` and `speakers`, with role/content `messages`, in
    ShareGPT's form, a prompt and its response, and so on. `convmodel import` makes such files of chat exports.

    `--from-scratch small` starts from random weights and a vocabulary of the data's own, for any language; its learning
    rate, batch size and packing then are the shape's unless given.

    The model is saved in `./model` unless `--output-dir` says otherwise. A run that was stopped or killed goes on where
    it was when the same command is given again.
    """
    if overwrite and settings.get("resume"):
        raise ConfigError("--overwrite begins anew and --resume goes on: give one of them")
    start = Start(model, from_scratch, tokenizer, grow_vocabulary)
    start.check(train)
    anew = {"resume": False} if overwrite else {}
    config = FitConfig.from_options({"output_dir": DEFAULT_MODEL} | start.settings | settings | anew)
    if not is_unfinished(str(config.output_dir)):
        require_free(str(config.output_dir), overwrite=overwrite)
    read = partial(ConversationReader, shape=format, on_error=on_error)  # type: ignore[arg-type]
    conversations = read(train), None if valid is None else read(valid)
    conversation_model = start.load(conversations[0], config, validated=valid is not None)
    console.print(f"{start.describe()} on {train}: {config.describe()}", highlight=False, soft_wrap=True)
    result = conversation_model.fit(*conversations, config=config)
    if as_json:
        print_json({**asdict(result), "config": config.to_dict()})
    else:
        _show(result, str(config.output_dir))
    from convmodel.training.sharding import exit_of_group  # loads torch, as `fit` has done

    exit_of_group()


def _show(result: "FitResult", output_dir: str) -> None:
    """Shows what was measured, and how to go on."""
    rows = [
        ("updates", f"{result.steps:,}"),
        ("training loss, nats a token", f"{result.train_loss:.3f}"),
        ("tokens a second", f"{result.tokens_per_second:,.0f}"),
    ]
    if result.validation is not None:
        rows.append(("validation perplexity", f"{result.validation.perplexity:.2f}, after update {result.best_step}"))
        rows.append(("validation bits a byte", f"{result.validation.bits_per_byte:.3f}"))
    print_table(("", output_dir), rows)
    console.print(f"Talk to it:  {program()} chat --model {output_dir}", highlight=False)


command = with_fit_options(_fit)
