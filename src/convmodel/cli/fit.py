"""`convmodel fit`: fine-tunes a model on conversations."""

from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from convmodel.cli.console import (
    DEFAULT_MODEL,
    console,
    load_model,
    print_json,
    print_table,
    program,
    quieten_transformers,
    require_free,
)
from convmodel.cli.data_options import FormatOption, OnErrorOption
from convmodel.cli.fit_options import with_fit_options
from convmodel.cli.model_options import MODEL_HELP
from convmodel.data.reading import ConversationReader
from convmodel.data.shapes import AUTO
from convmodel.doctor.words import millions
from convmodel.errors import ConfigError
from convmodel.from_scratch import SHAPES, settings_of
from convmodel.training.config import FitConfig
from convmodel.training.run_folder import is_unfinished

if TYPE_CHECKING:
    from convmodel.model import ConversationModel

BASE_MODEL = "gpt2"
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
    if tokenizer is not None and from_scratch is None:
        raise ConfigError("--tokenizer is the vocabulary of a new model: give --from-scratch too")
    if model is not None and from_scratch is not None:
        raise ConfigError("--model starts from a trained model and --from-scratch from a new one: give one of them")
    if from_scratch is not None and train == "-":
        raise ConfigError("--from-scratch reads the conversations twice: give a file instead of standard input")
    anew = {"resume": False} if overwrite else {}
    suited = settings_of(from_scratch) if from_scratch is not None else {}
    config = FitConfig.from_options({"output_dir": DEFAULT_MODEL} | suited | settings | anew)
    if not is_unfinished(str(config.output_dir)):
        require_free(str(config.output_dir), overwrite=overwrite)
    read = partial(ConversationReader, shape=format, on_error=on_error)  # type: ignore[arg-type]
    conversations = read(train), None if valid is None else read(valid)
    if from_scratch is not None:
        conversation_model = _new_model(conversations[0], from_scratch, tokenizer, config, valid is not None)
        what = f"training a new {from_scratch} model"
    else:
        conversation_model = load_model(model or BASE_MODEL)
        what = f"fine-tuning {model or BASE_MODEL}"
    console.print(f"{what} on {train}: {config.describe()}", highlight=False, soft_wrap=True)
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


def _new_model(
    train: ConversationReader, shape: str, tokenizer: str | None, config: FitConfig, validated: bool
) -> "ConversationModel":
    """Makes an untrained model and says what it is, and whether it has more weights than there is to learn."""
    with console.status("learning a vocabulary ..."):
        quieten_transformers()
        from convmodel.from_scratch import make_model
        from convmodel.tokenizer import ConversationTokenizer

        vocabulary = ConversationTokenizer.from_pretrained(tokenizer) if tokenizer else None
        new = make_model(train, shape, tokenizer=vocabulary, seed=config.seed)
    console.print(
        f"a new GPT-2: {millions(new.parameters)} parameters, {len(new.model.tokenizer):,} entries in its vocabulary; "
        f"about {millions(new.tokens)} tokens to learn from",
        highlight=False,
        soft_wrap=True,
    )
    if new.parameters > new.tokens:
        cures = [] if validated else ["--valid, which keeps the model that is best on other conversations"]
        cures += [] if config.dropout else ["--dropout 0.1"]
        cures += ["a smaller shape"] if shape != next(iter(SHAPES)) else []
        console.print(
            "there are more parameters than tokens: it will soon know the conversations by heart. What helps: "
            f"{'; '.join([*cures, 'more conversations; a trained model to start from, with --model'])}",
            style="yellow",
            highlight=False,
            soft_wrap=True,
        )
    return new.model


command = with_fit_options(_fit)
