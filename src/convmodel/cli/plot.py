"""`convmodel plot`: plots the training curves of runs, during training or afterwards.

Owns: the printed comparison. The curves are `report.curves_file`'s. Does not import torch.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from rich.text import Text
from typer import Argument, Option

from convmodel.cli import flags
from convmodel.cli.console import print_json, print_message, print_table
from convmodel.data.progress import console
from convmodel.errors import ConfigError, SaveError

if TYPE_CHECKING:
    from convmodel.training.metrics_reader import Metrics


def command(
    runs: Annotated[
        list[Path], Argument(help="Output folders of `convmodel fit`, or their metrics.jsonl.", metavar="RUN")
    ],
    *,
    output: Annotated[
        Path, Option("--output", "-o", help="File to write: .png for an image, .html for a page.")
    ] = Path("curves.png"),
    by: Annotated[str, Option(help="The x axis: steps or tokens.")] = "steps",
    smooth: Annotated[
        float | None,
        Option(
            min=0.0,
            max=0.9999,
            help="Smoothing of the training loss, from 0 (none) to 0.9999. By default it depends on the run's length.",
        ),
    ] = None,
    title: Annotated[str | None, Option(help="Title of the plot.")] = None,
    as_json: flags.Json = False,
) -> None:
    """Plot training loss, validation loss and learning rate of one or more runs, and compare their metrics.

    `convmodel plot model` plots one run; it may still be training.

    `convmodel plot small large --by tokens -o curves.html` plots two runs over training tokens, which makes
    runs with different batch sizes comparable.

    Look at the validation loss, the line with markers: while it falls, more training helps; where it rises, the model
    memorizes its data. The ring marks the best checkpoint, which was kept. A page also lists the settings that differ.
    An existing output file is replaced.
    """
    from convmodel.report.curves_file import require_suffix, write_curves
    from convmodel.training.metrics_reader import read_runs

    if by not in ("steps", "tokens"):
        raise ConfigError(f"by is {by!r}: it must be steps or tokens")
    require_suffix(output)
    if output.is_dir():
        raise SaveError(f"{output} cannot be written: it is a folder; give a file")
    metrics = read_runs(runs)
    with console.status(f"drawing {output} ..."):
        write_curves(output, metrics, title, by=by, smooth=smooth)
    if as_json:
        print_json({"output": str(output), "runs": [run.summary() for run in metrics]})
    else:
        _print(metrics)
    print_message(f"wrote the curves to {output}")


def _print(runs: "Sequence[Metrics]") -> None:
    """Prints the metrics of the runs, and the settings that differ."""
    from convmodel.layout.token_view import visible_line
    from convmodel.report.run_comparison import differing_settings, incomparable, run_metrics

    rows: list[Sequence[str | Text]] = [*run_metrics(runs)]
    if differing := differing_settings(runs):
        rows += [(), (Text("settings that differ", style="bold"),), *differing]
    print_table(("", *(visible_line(run.name) for run in runs)), rows)
    if sentence := incomparable(runs):
        print_message(sentence)
