"""`convmodel plot`: draws the curves of fits, while they work or afterwards."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from convmodel.cli.console import console, print_json
from convmodel.errors import ConfigError, SaveError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from convmodel.training.metrics_reader import Metrics


def command(
    runs: Annotated[
        list[Path], typer.Argument(help="Folders that `convmodel fit` wrote, or their metrics.jsonl.", metavar="RUN")
    ],
    *,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The file to write: a picture, .png, or a page, .html.")
    ] = Path("curves.png"),
    by: Annotated[str, typer.Option(help="What the curves are drawn over: steps (updates) or tokens.")] = "steps",
    smooth: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            max=0.9999,
            help="How strongly to smooth the training loss; 0 is not at all. By default it depends on its length.",
            show_default=False,
        ),
    ] = None,
    title: Annotated[str | None, typer.Option(help="What stands above the curves.", show_default=False)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the figures as JSON.")] = False,
) -> None:
    """Draws the loss, the validations and the learning rate of one or more fits, and compares their figures.

    `convmodel fit` writes `metrics.jsonl` into its output folder from the first update on, so that a fit can be looked
    at while it works:

    `convmodel plot model`

    Two fits in one picture, over the tokens that they learned from, which is fair to different batch sizes:

    `convmodel plot small large --by tokens -o curves.html`

    Read the validation, the line with markers: while it falls, more training helps; where it rises, the model learns
    its data by heart. The ring is the best one, whose model was kept. A page also says which settings differ. A file
    that is there already is replaced.
    """  # fmt: skip
    from convmodel.report.curves_file import require_suffix, write_curves
    from convmodel.training.metrics_reader import read_runs

    if by not in ("steps", "tokens"):
        raise ConfigError(f"by is {by!r}: it must be steps or tokens")
    require_suffix(output)
    if output.is_dir():
        raise SaveError(f"{output} cannot be written: it is a folder; give a file")
    found = read_runs(runs)
    with console.status(f"drawing {output} ..."):
        write_curves(output, found, title, by=by, smooth=smooth)
    if as_json:
        print_json({"output": str(output), "runs": [run.summary() for run in found]})
    else:
        _show(found)
    console.print(f"the curves are in {output}", markup=False, highlight=False, soft_wrap=True)


def _show(runs: "Sequence[Metrics]") -> None:
    """Shows the figures on standard output, and the settings that differ."""
    from convmodel.layout.token_view import visible_line
    from convmodel.report.run_comparison import differences, figures

    table = Table(box=None, pad_edge=False, header_style="bold")
    table.add_column("", overflow="fold")
    for run in runs:
        table.add_column(Text(visible_line(run.name)), justify="right", overflow="fold")
    for row in figures(runs):
        table.add_row(*row)
    differing = differences(runs)
    if differing:
        table.add_row()
        table.add_row(Text("settings that differ", style="bold"))
    for row in differing:
        table.add_row(*(Text(cell) for cell in row))
    Console().print(table)
