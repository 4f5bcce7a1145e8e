"""What `convmodel doctor` shows in a terminal.

Owns: how tokens, statistics and checks look. The checks and the estimate are `training.doctor`'s.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from convmodel.cli.console import check_output_file, print_message, print_table
from convmodel.data.progress import console

if TYPE_CHECKING:
    from convmodel.layout.token_view import ShownToken
    from convmodel.training.doctor.checks import Check
    from convmodel.training.doctor.estimate import Estimate
    from convmodel.training.doctor.examination import Examination
    from convmodel.training.doctor.judgement_checks import JudgementExamination
    from convmodel.training.doctor.statistics import Statistics

_SPEAKER_STYLES = ("cyan", "yellow", "green", "magenta", "blue", "red")
_STATUS_STYLES = {"pass": "green", "warn": "yellow", "fail": "bold red"}
_MAX_TOKENS = 150  # in a terminal; the report shows all


def print_examination(
    examination: "Examination | JudgementExamination", windows: "list[list[ShownToken]]", shown: str
) -> None:
    """Prints tokens, statistics, checks and the estimate on standard output, as far as there are any.

    Args:
        examination: The results.
        windows: The tokens of one item.
        shown: What the item is, such as "conversation 1".
    """
    screen = Console()
    if examination.statistics is not None:
        screen.print(Text(f"{shown}, as the model sees it", style="bold"))
        print_tokens(windows, screen)
        screen.print()
        print_statistics(examination.statistics, screen)
    print_checks(examination.checks, screen)
    print_estimate(examination.estimate, screen)


def check_report(path: Path) -> None:
    """Checks that a report can be written, before the work that fills it."""
    from convmodel.report.svg import require_matplotlib

    check_output_file(path)
    require_matplotlib()


def write_report(
    path: Path, title: str, examination: "Examination | JudgementExamination", windows: "list[list[ShownToken]]"
) -> None:
    """Writes the results as a page, if a model was examined."""
    from convmodel.report.doctor_page import write_doctor_page

    if examination.statistics is None:
        return
    with console.status(f"writing {path} ..."):
        write_doctor_page(
            path,
            title=title,
            checks=examination.checks,
            statistics=examination.statistics,
            windows=windows,
            estimate=examination.estimate,
        )
    print_message(f"wrote the report to {path}")


def print_estimate(estimate: "Estimate | None", screen: Console) -> None:
    """Prints the time and memory of a run after a blank line, if they were estimated."""
    from convmodel.report.doctor_page import estimate_rows

    if estimate is not None:
        screen.print()
        print_table(("time and memory estimate", ""), estimate_rows(estimate), to=screen)


def print_statistics(statistics: "Statistics", screen: Console) -> None:
    """Prints lengths and speakers, followed by a blank line."""
    from convmodel.layout.token_view import visible_line
    from convmodel.report.doctor_page import SPREAD_NAMES, spread_row

    spread = {
        "turns per conversation": statistics.turns_per_conversation,
        "tokens per turn": statistics.tokens_per_turn,
    }
    print_table(
        ("training data", *SPREAD_NAMES), [(name, *spread_row(values)) for name, values in spread.items()], to=screen
    )
    screen.print()
    speakers = [(visible_line(name), f"{turns:,}", f"{tokens:,}") for name, turns, tokens in statistics.by_speaker()]
    print_table(("speaker", "turns", "tokens"), speakers, to=screen)
    screen.print()


def print_tokens(windows: "list[list[ShownToken]]", screen: Console) -> None:
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


def print_checks(checks: "Sequence[Check]", screen: Console) -> None:
    """Prints checks, each with its finding and, unless it passed, the fix."""
    from convmodel.report.doctor_page import MARKS

    table = Table("", "check", box=None, pad_edge=False, header_style="bold")
    table.add_column("finding", overflow="fold")
    for check in checks:
        finding = Text(check.finding)
        if check.fix:
            finding.append(f"\n→ {check.fix}", style="dim")
        table.add_row(Text(f"{MARKS[check.status]} {check.status}", _STATUS_STYLES[check.status]), check.name, finding)
    screen.print(table)
