"""`convmodel fit`: fine-tunes a model on conversations.

Owns: what the output folder may hold before a run. `fit_options` owns the flags of its settings, `starting_point` the
model that it trains.
"""

import logging
from typing import TYPE_CHECKING, Annotated, Any

from typer import Argument, Option

from convmodel.cli import flags
from convmodel.cli.console import DEFAULT_MODEL, check_output_dir, print_json, print_message, print_table, program
from convmodel.cli.fit_options import with_fit_options
from convmodel.cli.starting_point import BASE_MODEL, StartingPoint
from convmodel.data.judgements.reader import JudgementReader
from convmodel.data.reading.shapes import AUTO
from convmodel.errors import ConfigError
from convmodel.hf_model.from_scratch import SHAPES
from convmodel.training.config import FitConfig
from convmodel.training.resume.run_folder import is_unfinished
from convmodel.training.samples_file import SHOWN
from convmodel.training.units import short_count

if TYPE_CHECKING:
    from convmodel.training.fit_result import FitResult

_SHAPES_HELP = ", ".join(f"{name} ({short_count(shape.parameters)} parameters)" for name, shape in SHAPES.items())


def _fit(
    train: Annotated[str, Argument(help=f"Training conversations: {flags.SOURCE_HELP}.", metavar="TRAIN")],
    *,
    valid: flags.Valid = None,
    format: flags.Format = AUTO,
    on_error: flags.OnError = "fail",
    model: Annotated[
        str | None, Option("--model", "-m", help=f"Model to fine-tune: {flags.MODEL_SOURCES}. [default: {BASE_MODEL}]")
    ] = None,
    from_scratch: Annotated[
        str | None, Option(help=f"Train a new model of this size instead: {_SHAPES_HELP}.", metavar="SHAPE")
    ] = None,
    tokenizer: Annotated[
        str | None,
        Option(
            help="With --from-scratch: folder with a tokenizer, from `convmodel tokenizer train`; by default one is "
            "trained on TRAIN."
        ),
    ] = None,
    layout: flags.Layout = "auto",
    names: flags.Names = None,
    token_types: flags.TokenTypes = None,
    grow_vocabulary: Annotated[
        int | None,
        Option(
            min=1,
            metavar="ENTRIES",
            help="Add this many entries to the model's vocabulary for the language of TRAIN, so that text in another "
            "script takes several times fewer tokens.",
        ),
    ] = None,
    quantize: Annotated[
        str | None,
        Option(
            help="int8: with --lora, keep the model's own weights in int8, a quarter of the memory, on CPUs; "
            "see docs/training.md#lora-over-int8-weights."
        ),
    ] = None,
    replay: Annotated[
        str | None,
        Option(help="With judgements: conversations that are trained on beside them, so that no skill is forgotten."),
    ] = None,
    overwrite: flags.StartOver = False,
    as_json: flags.Json = False,
    settings: dict[str, Any],
) -> None:
    """Fine-tune a model on your conversations and save the best checkpoint.

    `convmodel fit train.jsonl --valid valid.jsonl --model gpt2 --output-dir model`

    The data is JSONL, JSON, YAML, CSV, TSV or Parquet in any common format: a list of turns per line, `["Hello", "Hi,
    how are you?", "Good, thanks!"]`, or an object with `turns` and `speakers`, with role/content `messages`, in
    ShareGPT format, a prompt and a response, and so on. `convmodel import` converts chat exports to such files.

    With `--objective kto` (or dpo, orpo) the data is judgements: what `serve --feedback` and `convmodel compare` write,
    or preference data of OpenAI and TRL. `--valid` then says what the model must not forget. See docs/preferences.md.

    `--from-scratch small` trains a new model, with random weights and its own vocabulary, in any language; the defaults
    of learning rate, batch size and packing then suit its size.

    The model is saved in `./model` unless you give another `--output-dir`. If a run was stopped or killed, the same
    command resumes it.
    """
    if overwrite and settings.get("resume"):
        raise ConfigError("--overwrite starts from the beginning and --resume resumes: give one of them")
    flags.require_one_stdin(train, valid, replay)
    types = flags.parse_token_types(token_types)
    start = StartingPoint(model, from_scratch, tokenizer, grow_vocabulary, layout, names, types, quantize)
    start.check(train)
    restart = {"resume": False} if overwrite else {}
    config = FitConfig.from_options({"output_dir": DEFAULT_MODEL} | start.settings | settings | restart)
    start.check_settings(config)
    judged = config.objective != "sft"
    if judged and (from_scratch or grow_vocabulary):
        raise ConfigError("judgements are of a trained model: leave out --from-scratch and --grow-vocabulary")
    output_dir = str(config.output_dir)
    if not is_unfinished(output_dir):
        check_output_dir(output_dir, overwrite=overwrite)
    train_reader: Any
    if judged:  # --format is that of the conversations beside them
        of_judgements: dict[str, Any] = {"on_error": on_error, "regeneration_weight": config.regeneration_weight}
        train_reader = JudgementReader(train, **of_judgements)
    else:
        train_reader = flags.open_reader(train, format, on_error)
    valid_reader = None if valid is None else flags.open_reader(valid, format, on_error)
    replay_reader = None if replay is None else flags.open_reader(replay, format, on_error)
    conversation_model = start.load(train_reader, config, validated=valid is not None)
    print_message(f"{start.describe()} on {train}: {config.describe()}")
    print_message(f"token layout: {conversation_model.tokenizer.describe_layout()}")
    # Whoever asked for JSON reads the responses in the file.
    logging.getLogger(SHOWN).setLevel(logging.WARNING if as_json else logging.NOTSET)
    result = conversation_model.fit(train_reader, valid_reader, replay=replay_reader, config=config)
    if as_json:
        print_json({**result.to_dict(), "config": config.to_dict()})
    else:
        _print(result, output_dir, quantize)
    from convmodel.training.sharding import exit_of_group  # imports torch, which `fit` has loaded by now

    exit_of_group()


def _print(result: "FitResult", output_dir: str, quantize: str | None) -> None:
    """Prints the metrics, and the command to try next."""
    rows = [
        ("steps", f"{result.steps:,}"),
        ("training loss, nats per token", f"{result.train_loss:.3f}"),
        ("tokens per second", f"{result.tokens_per_second:,.0f}"),
    ]
    if result.validation is not None:
        before, after = result.before, result.validation
        was = ("", "") if before is None else (f"{before.perplexity:.2f} → ", f"{before.bits_per_byte:.3f} → ")
        rows.append(("validation perplexity", f"{was[0]}{after.perplexity:.2f}, at step {result.best_step}"))
        rows.append(("validation bits per byte", f"{was[1]}{after.bits_per_byte:.3f}"))
    print_table(("", output_dir), rows)
    print_message(result.verdict)
    print_message(
        f"Chat with it:  {program()} chat --model {output_dir}" + (f" --quantize {quantize}" if quantize else "")
    )


command = with_fit_options(_fit)
