"""`convmodel doctor`: looks at a model and at data before they are trained, and says what is wrong."""

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from convmodel.cli.console import console, load_model, print_json, print_table
from convmodel.cli.data_options import FormatOption, OnErrorOption
from convmodel.cli.fit_options import with_fit_options
from convmodel.cli.model_options import MODEL_HELP
from convmodel.data.reading.shapes import AUTO
from convmodel.errors import ConfigError, SaveError
from convmodel.training.config import FitConfig

if TYPE_CHECKING:
    from convmodel.layout.token_view import ShownToken
    from convmodel.training.doctor.checks import Check
    from convmodel.training.doctor.examination import Examination

_SPEAKER_STYLES = ("cyan", "yellow", "green", "magenta", "blue", "red")
_STATUS_STYLES = {"pass": "green", "warn": "yellow", "fail": "bold red"}
_SETTINGS = (
    "max_length", "loss_on", "packing", "batch_size", "gradient_accumulation_steps", "epochs", "max_steps",
    "warmup_steps", "precision", "gradient_checkpointing",
)  # fmt: skip
_SHOWN_TOKENS = 400  # on a screen; the report has them all


def _doctor(
    model: Annotated[str, typer.Argument(help=MODEL_HELP, metavar="MODEL")],
    data: Annotated[str, typer.Argument(help="Conversations to learn from.", metavar="DATA")],
    *,
    valid: Annotated[
        str | None, typer.Option(help="Conversations to choose the best model by.", show_default=False)
    ] = None,
    format: FormatOption = AUTO,
    on_error: OnErrorOption = "fail",
    conversation: Annotated[int, typer.Option(min=1, help="Which conversation to show as tokens.")] = 1,
    report: Annotated[Path | None, typer.Option(help="Write all of it as one HTML file.", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
    no_estimate: Annotated[bool, typer.Option("--no-estimate", help="Do not measure time and memory.")] = False,
    settings: dict[str, Any],
) -> None:
    """Looks at a model and your data before you fine-tune, and says what is wrong and how to cure it.

    Shows one conversation token by token, checks the data and the settings, and measures what the run will take.
    Nothing is trained. The exit code is 1 if a check fails.
    """
    config = FitConfig.from_options(settings)
    if report is not None and (report.is_dir() or not report.parent.is_dir()):
        raise SaveError(f"{report} cannot be written: give a file in a folder that exists")
    sources = [source for source in (data, valid) if source is not None]
    found, windows = _examined(
        model,
        sources,
        config,
        reading={"shape": format, "on_error": on_error},
        number=conversation,
        measure=not no_estimate,
    )
    if report is not None:
        _write(report, f"{data}, to fine-tune {model}", found, windows)
    if as_json:
        print_json(
            {
                "checks": [asdict(check) for check in found.checks],
                "estimate": found.estimate and asdict(found.estimate),
                "statistics": found.statistics.to_dict(),
            }
        )
    else:
        _show(found, windows, conversation)
    if found.failed:
        raise typer.Exit(1)


command = with_fit_options(_doctor, only=_SETTINGS)


def _examined(
    model: str, sources: Sequence[str], config: FitConfig, *, reading: dict[str, Any], number: int, measure: bool
) -> tuple["Examination", "list[list[ShownToken]]"]:
    """Reads the data, loads the model, and does all that takes time; returns one conversation's tokens too."""
    from convmodel.data.reading.reader import ConversationReader
    from convmodel.layout.token_view import token_view
    from convmodel.training.doctor.examination import Part, examine

    parts = [Part.read(ConversationReader(source, **reading)) for source in sources]
    conversations = parts[0].conversations
    if number > len(conversations):
        raise ConfigError(f"conversation is {number}, but there are only {len(conversations):,}")
    loaded = load_model(model)
    with console.status(f"examining {len(conversations):,} conversations ..."):
        valid = parts[1] if len(parts) > 1 else None
        found = examine(loaded.hf_model, loaded.tokenizer, parts[0], valid, config.to_dict(), measure=measure)
        windows = token_view(
            loaded.tokenizer, conversations[number - 1], max_length=found.plan.max_length, loss_on=config.loss_on
        )
    return found, windows


def _write(path: Path, title: str, found: "Examination", windows: "list[list[ShownToken]]") -> None:
    from convmodel.report.doctor_page import write_report

    with console.status(f"writing {path} ..."):
        write_report(
            path,
            title=title,
            checks=found.checks,
            statistics=found.statistics,
            windows=windows,
            estimate=found.estimate,
        )
    console.print(f"the report is in {path}", markup=False, highlight=False, soft_wrap=True)


def _show(found: "Examination", windows: "list[list[ShownToken]]", number: int) -> None:
    """Shows all on standard output: tokens, numbers, checks, estimate."""
    from convmodel.layout.token_view import visible_line
    from convmodel.report.doctor_page import SPREAD_NAMES, estimate_rows, spread_row

    screen, statistics = Console(), found.statistics
    screen.print(Text(f"conversation {number}, as the model sees it", style="bold"))
    _show_tokens(windows, screen)
    screen.print()
    spread = {
        "turns in a conversation": statistics.turns_per_conversation,
        "tokens in a turn": statistics.tokens_per_turn,
    }
    print_table(("", *SPREAD_NAMES), [(name, *spread_row(values)) for name, values in spread.items()], to=screen)
    screen.print()
    table = Table("speaker", box=None, pad_edge=False, header_style="bold")
    for name in ("turns", "tokens"):
        table.add_column(name, justify="right")
    for name, turns, tokens in statistics.by_speaker():
        table.add_row(Text(visible_line(name)), f"{turns:,}", f"{tokens:,}")
    screen.print(table)
    screen.print()
    _show_checks(found.checks, screen)
    if found.estimate is not None:
        screen.print()
        print_table(("the run will take", ""), estimate_rows(found.estimate), to=screen)


def _show_tokens(windows: "list[list[ShownToken]]", screen: Console) -> None:
    """Draws a colour a speaker, targets bold and underlined, separators the other way round."""
    from convmodel.layout.token_view import visible_line

    if not windows:
        screen.print(Text("none of its turns is supervised"))
        return
    names = list(dict.fromkeys(token.speaker for window in windows for token in window))
    styles = {name: _SPEAKER_STYLES[number % len(_SPEAKER_STYLES)] for number, name in enumerate(names)}
    legend = Text.assemble(
        *((f"{visible_line(name)}  ", style) for name, style in styles.items()),
        ("learned", "bold underline"),
        "  context  ",
        ("separator", "reverse"),
        "  · space  ↵ new line",
    )
    screen.print(legend)
    left = _SHOWN_TOKENS
    for number, window in enumerate(windows, 1):
        if len(windows) > 1:
            screen.print(Text(f"window {number} of {len(windows)}", style="dim"))
        line = Text()
        for place, token in enumerate(window[:left]):
            if token.is_separator and 0 < place < len(window) - 1:
                line.append("\n")
            learned = " bold underline" * token.supervised + " reverse" * token.is_separator
            line.append(token.text, styles[token.speaker] + learned)
            line.append(" ")
        screen.print(line)
        left -= len(window)
        if left <= 0:
            screen.print(Text("... (the report, --report FILE, has them all)", style="dim"))
            return


def _show_checks(checks: "Sequence[Check]", screen: Console) -> None:
    from convmodel.report.doctor_page import MARKS

    table = Table("", "check", box=None, pad_edge=False, header_style="bold")
    table.add_column("finding", overflow="fold")
    for check in checks:
        finding = Text(check.finding)
        if check.cure:
            finding.append(f"\n→ {check.cure}", style="dim")
        table.add_row(Text(f"{MARKS[check.status]} {check.status}", _STATUS_STYLES[check.status]), check.name, finding)
    screen.print(table)
