"""`convmodel doctor`: checks a model and data before training.

Owns: how tokens and checks look in a terminal. The checks and the estimate are `training.doctor`'s.
"""

from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text
from typer import Argument, Option

from convmodel.cli import flags
from convmodel.cli.console import (
    check_output_file,
    load_model,
    print_json,
    print_message,
    print_table,
    silence_transformers,
)
from convmodel.cli.fit_options import with_fit_options
from convmodel.conversation import DEFAULT_SPEAKERS, Conversation
from convmodel.data.progress import console
from convmodel.data.reading.shapes import AUTO
from convmodel.errors import ConfigError
from convmodel.training.config import FitConfig

if TYPE_CHECKING:
    from convmodel.data.reading.reader import ConversationReader
    from convmodel.layout.token_view import ShownToken
    from convmodel.model import ConversationModel
    from convmodel.training.doctor.checks import Check
    from convmodel.training.doctor.examination import Examination

_SPEAKER_STYLES = ("cyan", "yellow", "green", "magenta", "blue", "red")
_STATUS_STYLES = {"pass": "green", "warn": "yellow", "fail": "bold red"}
_SETTINGS = (
    "max_length", "loss_on", "packing", "batch_size", "gradient_accumulation_steps", "epochs", "max_steps",
    "warmup_steps", "precision", "gradient_checkpointing",
)  # fmt: skip
_MAX_TOKENS = 400  # in a terminal; the report shows all


def _doctor(
    model: Annotated[str, Argument(help=flags.MODEL_HELP, metavar="MODEL")],
    data: Annotated[
        str | None,
        Argument(
            help=f"Training conversations: {flags.SOURCE_HELP}; without them, the model's token layout is shown alone.",
            metavar="[DATA]",
        ),
    ] = None,
    *,
    layout: flags.Layout = "auto",
    names: flags.Names = None,
    valid: flags.Valid = None,
    format: flags.Format = AUTO,
    on_error: flags.OnError = "fail",
    conversation: Annotated[int, Option(min=1, help="Number of the conversation to show as tokens, from 1.")] = 1,
    report: Annotated[
        Path | None, Option("--report", "-o", help="HTML file for the whole report, with all tokens and plots.")
    ] = None,
    as_json: flags.Json = False,
    no_estimate: Annotated[bool, Option("--no-estimate", help="Skip the time and memory estimate.")] = False,
    settings: dict[str, Any],
) -> None:
    """Check a model and your data before fine-tuning, and report problems and how to fix them.

    `convmodel doctor gpt2 data/train.jsonl --valid data/valid.jsonl --report doctor.html`

    `convmodel doctor HuggingFaceTB/SmolLM2-135M-Instruct` shows the token layout of a model alone.

    Shows a conversation token by token, checks the data and the settings, and estimates the time and memory of the run.
    Nothing is trained. The exit code is 1 if a check fails.
    """
    config = FitConfig.from_options(settings)
    if data is None:
        if valid is not None or report is not None:
            raise ConfigError("--valid and --report are about training conversations: give DATA too")
        _print_layout(model, {"layout": layout, "names": names}, as_json=as_json)
        return
    if report is not None:
        check_output_file(report)
    readers = [flags.open_reader(source, format, on_error) for source in (data, valid) if source is not None]
    examination, windows = _examine(
        partial(load_model, model, layout=layout, names=names),
        readers,
        config,
        number=conversation,
        measure=not no_estimate,
    )
    if report is not None:
        from convmodel.report.doctor_page import write_doctor_page

        with console.status(f"writing {report} ..."):
            write_doctor_page(
                report,
                title=f"{data}, to fine-tune {model}",
                checks=examination.checks,
                statistics=examination.statistics,
                windows=windows,
                estimate=examination.estimate,
            )
        print_message(f"wrote the report to {report}")
    if as_json:
        print_json(
            {
                "checks": [asdict(check) for check in examination.checks],
                "estimate": examination.estimate and asdict(examination.estimate),
                "statistics": examination.statistics.to_dict(),
            }
        )
    else:
        _print(examination, windows, conversation)
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

    parts = [Part(list(reader), reader.problems) for reader in readers]
    conversations = parts[0].conversations
    if number > len(conversations):
        raise ConfigError(f"conversation is {number}, but there are only {len(conversations):,}")
    loaded = load()
    with console.status(f"examining {len(conversations):,} conversations ..."):
        valid = parts[1] if len(parts) > 1 else None
        examination = examine(loaded.hf_model, loaded.tokenizer, parts[0], valid, config.to_dict(), measure=measure)
        windows = token_view(
            loaded.tokenizer, conversations[number - 1], max_length=examination.plan.max_length, loss_on=config.loss_on
        )
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
    _print_tokens(windows, screen)
    screen.print()
    for name, value in rows:
        screen.print(Text.assemble((f"{name}  ", "bold"), value))


def _print(examination: "Examination", windows: "list[list[ShownToken]]", number: int) -> None:
    """Prints tokens, statistics, checks and the estimate on standard output."""
    from convmodel.layout.token_view import visible_line
    from convmodel.report.doctor_page import SPREAD_NAMES, estimate_rows, spread_row

    screen, statistics = Console(), examination.statistics
    screen.print(Text(f"conversation {number}, as the model sees it", style="bold"))
    _print_tokens(windows, screen)
    screen.print()
    spread = {
        "turns per conversation": statistics.turns_per_conversation,
        "tokens per turn": statistics.tokens_per_turn,
    }
    print_table(("", *SPREAD_NAMES), [(name, *spread_row(values)) for name, values in spread.items()], to=screen)
    screen.print()
    speakers = [(visible_line(name), f"{turns:,}", f"{tokens:,}") for name, turns, tokens in statistics.by_speaker()]
    print_table(("speaker", "turns", "tokens"), speakers, to=screen)
    screen.print()
    _print_checks(examination.checks, screen)
    if examination.estimate is not None:
        screen.print()
        print_table(("time and memory estimate", ""), estimate_rows(examination.estimate), to=screen)


def _print_tokens(windows: "list[list[ShownToken]]", screen: Console) -> None:
    """Prints tokens in a color per speaker, supervised ones bold and underlined, separators in reverse video."""
    from convmodel.layout.token_view import visible_line

    if not windows:
        screen.print(Text("none of its turns is supervised"))
        return
    names = list(dict.fromkeys(token.speaker for window in windows for token in window))
    styles = {name: _SPEAKER_STYLES[number % len(_SPEAKER_STYLES)] for number, name in enumerate(names)}
    legend = Text.assemble(
        *((f"{visible_line(name)}  ", style) for name, style in styles.items()),
        ("supervised", "bold underline"),
        "  context  ",
        ("separator", "reverse"),
        "  · space  ↵ newline",
    )
    screen.print(legend)
    left = _MAX_TOKENS
    for number, window in enumerate(windows, 1):
        if len(windows) > 1:
            screen.print(Text(f"window {number} of {len(windows)}", style="dim"))
        line = Text()
        for index, token in enumerate(window[:left]):
            if token.is_marker and 0 < index < len(window) - 1 and not window[index - 1].is_marker:
                line.append("\n")
            marks = " bold underline" * token.supervised + " reverse" * token.is_marker
            line.append(token.text, styles[token.speaker] + marks)
            line.append(" ")
        screen.print(line)
        left -= len(window)
        if left <= 0:
            screen.print(Text("... (--report FILE writes all of them)", style="dim"))
            return


def _print_checks(checks: "Sequence[Check]", screen: Console) -> None:
    from convmodel.report.doctor_page import MARKS

    table = Table("", "check", box=None, pad_edge=False, header_style="bold")
    table.add_column("finding", overflow="fold")
    for check in checks:
        finding = Text(check.finding)
        if check.fix:
            finding.append(f"\n→ {check.fix}", style="dim")
        table.add_row(Text(f"{MARKS[check.status]} {check.status}", _STATUS_STYLES[check.status]), check.name, finding)
    screen.print(table)
