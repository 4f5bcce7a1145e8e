"""`convmodel doctor`: checks a model and data before training.

Owns: its options, and what is examined. The checks and the estimate are `training.doctor`'s, how they look
`doctor_display`'s.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.text import Text
from typer import Argument, Option

from convmodel.cli import flags
from convmodel.cli.console import (
    load_model,
    print_json,
    silence_transformers,
)
from convmodel.cli.doctor_device import doctor_device, require_alone
from convmodel.cli.doctor_display import check_report, print_examination, print_tokens, write_report
from convmodel.cli.doctor_judgements import JUDGEMENTS, Display, Sources, doctor_judgements
from convmodel.cli.fit_options import with_fit_options
from convmodel.conversation import DEFAULT_SPEAKERS, Conversation
from convmodel.data.judgements.reader import holds_judgements
from convmodel.data.progress import console
from convmodel.data.reading.shapes import AUTO
from convmodel.errors import ConfigError
from convmodel.training.config import FitConfig

if TYPE_CHECKING:
    from convmodel.data.reading.reader import ConversationReader
    from convmodel.layout.token_view import ShownToken
    from convmodel.model import ConversationModel
    from convmodel.training.doctor.examination import Examination

_SETTINGS = (
    "max_length", "loss_on", "packing", "batch_size", "gradient_accumulation_steps", "epochs", "max_steps",
    "warmup_steps", "precision", "gradient_checkpointing", "objective",
)  # fmt: skip


def _doctor(
    model: Annotated[str, Argument(help=f"{flags.MODEL_HELP} Or a file of judgements alone.", metavar="MODEL")],
    data: Annotated[
        str | None,
        Argument(
            help=f"Training conversations, or judgements: {flags.SOURCE_HELP}; without them, the model's token layout "
            "is shown alone.",
            metavar="[DATA]",
        ),
    ] = None,
    *,
    layout: flags.Layout = "auto",
    names: flags.Names = None,
    token_types: flags.TokenTypes = None,
    valid: flags.Valid = None,
    format: flags.Format = AUTO,
    on_error: flags.OnError = "fail",
    conversation: Annotated[int, Option(min=1, help="Number of the conversation to show as tokens, from 1.")] = 1,
    report: Annotated[
        Path | None, Option("--report", "-o", help="HTML file for the whole report, with all tokens and plots.")
    ] = None,
    as_json: flags.Json = False,
    device: Annotated[
        str | None, Option(help="Compare a device, such as mps or cuda, with the CPU on the model alone.")
    ] = None,
    no_estimate: Annotated[bool, Option("--no-estimate", help="Skip the time and memory estimate.")] = False,
    settings: dict[str, Any],
) -> None:
    """Check a model and your data before fine-tuning, and report problems and how to fix them.

    `convmodel doctor gpt2 data/train.jsonl --valid data/valid.jsonl --report doctor.html`

    `convmodel doctor HuggingFaceTB/SmolLM2-135M-Instruct` shows the token layout of a model alone.

    `convmodel doctor gpt2 --device mps` compares the logits, one update and the speed of a device with the CPU's.

    `convmodel doctor feedback.jsonl` checks ratings, corrections and votes, with or without a MODEL before them.

    Shows a conversation token by token, checks the data and the settings, and estimates the time and memory of the run.
    Nothing is trained. The exit code is 1 if a check fails.
    """
    flags.require_one_stdin(data or model, valid)
    config = FitConfig.from_options(settings)
    chosen = {"layout": layout, "names": names, "use_token_types": flags.parse_token_types(token_types)}
    if device is not None:
        unused = {
            "DATA": data,
            "--valid": valid,
            "--format": format != AUTO,
            "--on-error": on_error != "fail",
            "--conversation": conversation != 1,
            "--report": report,
            "--no-estimate": no_estimate,
        }
        require_alone(unused | {f"--{name.replace('_', '-')}": True for name in settings})
        doctor_device(partial(load_model, model, **chosen), device, as_json=as_json)
        return
    if format == JUDGEMENTS or (format == AUTO and holds_judgements(data or model)):
        load = None if data is None else partial(load_model, model, **chosen)
        sources = Sources(data or model, valid, on_error, model)
        display = Display(conversation, report, as_json)
        doctor_judgements(sources, load, settings, display, measure=not no_estimate)
        return
    if config.objective != "sft":
        raise ConfigError(f"objective {config.objective} learns from judgements: DATA has conversations")
    if data is None:
        if valid is not None or report is not None:
            raise ConfigError("--valid and --report are about training conversations: give DATA too")
        _print_layout(model, chosen, as_json=as_json)
        return
    if report is not None:
        check_report(report)
    readers = [flags.open_reader(source, format, on_error) for source in (data, valid) if source is not None]
    examination, windows = _examine(
        partial(load_model, model, **chosen),
        readers,
        config,
        number=conversation,
        measure=not no_estimate,
    )
    try:  # printed first, since a full disk may prevent the report; written even if a pipe is closed
        if as_json:
            print_json(
                {
                    "checks": [asdict(check) for check in examination.checks],
                    "estimate": examination.estimate and asdict(examination.estimate),
                    "statistics": examination.statistics.to_dict(),
                }
            )
        else:
            print_examination(examination, windows, f"conversation {conversation}")
    finally:
        if report is not None:
            write_report(report, f"{data}, to fine-tune {model}", examination, windows)
    if examination.failed:
        raise typer.Exit(1)


command = with_fit_options(_doctor, only=_SETTINGS)


def _examine(
    load: "Callable[[], ConversationModel]",
    readers: "Sequence[ConversationReader]",
    config: FitConfig,
    *,
    number: int,
    measure: bool,
) -> tuple["Examination", "list[list[ShownToken]]"]:
    """Reads the data, loads the model and runs the checks; returns the tokens of one conversation too."""
    from convmodel.layout.token_view import token_view
    from convmodel.training.doctor.examination import Part, examine
    from convmodel.training.roles import settle_roles

    parts = [Part(list(reader), reader.problems) for reader in readers]
    conversations = parts[0].conversations
    if number > len(conversations):
        raise ConfigError(f"conversation is {number}, but there are only {len(conversations):,}")
    loaded = load()
    with console.status(f"examining {len(conversations):,} conversations ..."):
        valid = parts[1] if len(parts) > 1 else None
        examination = examine(loaded.hf_model, loaded.tokenizer, parts[0], valid, config.to_dict(), measure=measure)
        plan = examination.plan
        tokenizer = settle_roles(loaded.tokenizer, conversations, plan.loss_on)
        windows = token_view(tokenizer, conversations[number - 1], max_length=plan.max_length, loss_on=plan.loss_on)
    return examination, windows


_EXAMPLE = ("Hello, who are you?", "I answer questions.", "What is the capital of France?", "Paris.")


def _print_layout(model: str, chosen: dict[str, Any], *, as_json: bool) -> None:
    """Prints the token layout of a model, and an example conversation in it."""
    with console.status(f"reading the tokenizer of {model} ..."):
        silence_transformers()
        from convmodel.layout.token_view import layout_rows, token_view
        from convmodel.layout.tokenizer import ConversationTokenizer

        tokenizer = ConversationTokenizer.from_pretrained(model, **chosen)
    system = ["Be brief."] if tokenizer.layout.takes_system else []
    speakers = [*(["system"] if system else []), *DEFAULT_SPEAKERS, *DEFAULT_SPEAKERS]
    example = Conversation([*system, *_EXAMPLE], speakers, pinned=len(system))
    rows = layout_rows(tokenizer)
    windows = token_view(tokenizer, example, max_length=1024, loss_on="responses")
    if as_json:
        print_json({"layout": dict(rows), "windows": [[asdict(token) for token in window] for window in windows]})
        return
    screen = Console()
    screen.print(Text("an example conversation, as the model sees it", style="bold"))
    print_tokens(windows, screen)
    screen.print()
    for name, value in rows:
        screen.print(Text.assemble((f"{name}  ", "bold"), value))
