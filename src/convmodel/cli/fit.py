"""`convmodel fit`: fine-tunes a model on conversations."""

from dataclasses import asdict
from functools import partial
from typing import Annotated, Any

import typer

from convmodel.cli.console import DEFAULT_MODEL, console, load_model, print_json, print_table, program, require_free
from convmodel.cli.data_options import FormatOption, OnErrorOption
from convmodel.cli.fit_options import with_fit_options
from convmodel.data.reading import ConversationReader
from convmodel.data.shapes import AUTO
from convmodel.errors import ConfigError
from convmodel.training.config import FitConfig
from convmodel.training.run_folder import is_unfinished


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
    model: Annotated[str, typer.Option("--model", "-m", help="A folder or a hub id to start from.")] = "gpt2",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Begin anew, and replace a model in the output folder.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    settings: dict[str, Any],
) -> None:
    """Fine-tunes a model on your conversations and saves the best one.

    The data is JSONL, JSON, CSV, TSV or Parquet in any usual shape: a line is a list of turns, `["Hello", "Hi, how are
    you?", "Good, thanks!"]`, or an object with `turns` and `speakers`, with role/content `messages`, in ShareGPT's
    form, a prompt and its response, and so on. `convmodel import` makes such files of chat exports.

    The model is saved in `./model` unless `--output-dir` says otherwise. A run that was stopped or killed goes on where
    it was when the same command is given again.
    """
    if overwrite and settings.get("resume"):
        raise ConfigError("--overwrite begins anew and --resume goes on: give one of them")
    anew = {"resume": False} if overwrite else {}
    config = FitConfig.from_options({"output_dir": DEFAULT_MODEL} | settings | anew)
    if not is_unfinished(str(config.output_dir)):
        require_free(str(config.output_dir), overwrite=overwrite)
    read = partial(ConversationReader, shape=format, on_error=on_error)  # type: ignore[arg-type]
    conversations = read(train), None if valid is None else read(valid)
    conversation_model = load_model(model)
    console.print(f"fine-tuning {model} on {train}: {config.describe()}", highlight=False, soft_wrap=True)
    result = conversation_model.fit(*conversations, config=config)
    from convmodel.training.sharding import leave_group  # loads torch, as `fit` has done

    leave_group()
    if as_json:
        print_json({**asdict(result), "config": config.to_dict()})
        return
    rows = [
        ("updates", f"{result.steps:,}"),
        ("training loss, nats a token", f"{result.train_loss:.3f}"),
        ("tokens a second", f"{result.tokens_per_second:,.0f}"),
    ]
    if result.validation is not None:
        rows.append(("validation perplexity", f"{result.validation.perplexity:.2f}, after update {result.best_step}"))
        rows.append(("validation bits a byte", f"{result.validation.bits_per_byte:.3f}"))
    print_table(("", str(config.output_dir)), rows)
    console.print(f"Talk to it:  {program()} chat --model {config.output_dir}", highlight=False)


command = with_fit_options(_fit)
