"""What a fit measured, as its `metrics.jsonl` has it.

Owns: the form of that file, and reading it. Imports nothing heavy, so that `convmodel plot` is quick; the file is
written by `convmodel.training.metrics_log`.
"""

import json
import math
import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

from convmodel.errors import ConfigError

METRICS_FILE = "metrics.jsonl"
"""The name of the file in a model's folder."""

TRAINING = ("loss", "perplexity", "learning_rate", "grad_norm", "tokens", "tokens_per_second")
"""What a line about training has beside `step`, `epoch`, `seconds` and `time`; transformers' names where it has one."""

VALIDATION = ("eval_loss", "eval_perplexity", "eval_bits_per_byte", "tokens")
"""What a line about a validation has beside those."""

Point = dict[str, Any]
"""A line: numbers by name, None where one was not finite."""


@dataclass(frozen=True, slots=True)
class Metrics:
    """The measurements of one fit.

    Attributes:
        name: What to call it: its folder's name, or the file's own if that is not the usual one.
        train: The lines about training, in order.
        validations: The lines about validations, in order.
        begin: What was known before the first update: `config`, `windows`, `steps`, `parameters` and more.

    Example:
        >>> points = [{"step": 10, "eval_loss": 3.1}, {"step": 20, "eval_loss": 2.9}, {"step": 30, "eval_loss": 3.0}]
        >>> Metrics("model", [], points).best
        {'step': 20, 'eval_loss': 2.9}
    """

    name: str
    train: Sequence[Point]
    validations: Sequence[Point]
    begin: dict[str, Any] = field(default_factory=dict)

    @property
    def best(self) -> Point | None:
        """The first validation with the lowest loss; None without any."""
        found = [point for point in self.validations if is_finite(point["eval_loss"])]
        return min(found, key=lambda point: float(point["eval_loss"]), default=None)

    def summary(self) -> dict[str, Any]:
        """The figures by which fits are compared; None where one was not measured.

        `tokens_per_second` is the median, which a pause or a busy minute leaves alone.
        """
        points = sorted([*self.train, *self.validations], key=lambda point: int(point["step"]))
        speeds = [point["tokens_per_second"] for point in self.train if is_finite(point.get("tokens_per_second"))]
        best = self.best or {}
        return {
            "name": self.name,
            "steps": points[-1]["step"] if points else 0,
            "tokens": _last(self.train, "tokens"),
            "tokens_per_second": statistics.median(speeds) if speeds else None,
            "seconds": _last(points, "seconds"),
            "train_loss": _last(self.train, "loss"),
            "best_step": best.get("step"),
            "eval_loss": best.get("eval_loss"),
            "eval_perplexity": best.get("eval_perplexity"),
            "eval_bits_per_byte": best.get("eval_bits_per_byte"),
        }


def is_finite(value: Any) -> bool:
    """Tells whether something is a number that can be drawn."""
    return isinstance(value, int | float) and math.isfinite(value)


def _last(points: Sequence[Point], name: str) -> Any:
    return next((point[name] for point in reversed(points) if point.get(name) is not None), None)


def read_metrics(path: str | Path) -> Metrics:
    """Reads what a fit wrote; a last line that a killed fit left half written is passed over.

    Args:
        path: A model's folder, or the file itself.

    Raises:
        ConfigError: If there is no such file, or a line of it makes no sense; the message names the line.
    """
    place = Path(path)
    file = place / METRICS_FILE if place.is_dir() else place
    if not file.exists():
        where = f"{place} has no {METRICS_FILE}" if place.is_dir() else f"there is no file or folder {place}"
        raise ConfigError(f"{where}: give a folder that `convmodel fit` wrote, or its {METRICS_FILE}")
    records = [record for _, record in read_lines(file, _refuse)]
    begins = [record for record in records if record.get("event") == "begin"]
    folder = file.resolve().parent.name or str(file)
    return Metrics(
        name=folder if file.name == METRICS_FILE else file.stem,
        train=[record for record in records if "event" not in record and "loss" in record],
        validations=[record for record in records if "event" not in record and "eval_loss" in record],
        begin=begins[-1] if begins else {},
    )


def read_runs(paths: Sequence[str | Path]) -> list[Metrics]:
    """Reads what several fits wrote; where folders of one name are given, the fits are called by their paths.

    Raises:
        ConfigError: If one cannot be read, or is given twice.
    """
    twice = next((path for number, path in enumerate(paths) if path in paths[:number]), None)
    if twice is not None:
        raise ConfigError(f"{twice} is given twice: give each fit once")
    runs = [read_metrics(path) for path in paths]
    names = [run.name for run in runs]
    return [
        replace(run, name=str(path)) if names.count(run.name) > 1 else run
        for path, run in zip(paths, runs, strict=True)
    ]


def _refuse(problem: str) -> NoReturn:
    raise ConfigError(f"{problem}: mend or remove that line")


def read_lines(file: Path, on_bad: Callable[[str], object]) -> Iterator[tuple[str, Point]]:
    """Gives each line as it stands and what it says; a torn last line is left out.

    Args:
        file: A metrics file.
        on_bad: Called with what is wrong with a line, and where; if it returns, the line is left out.

    Raises:
        ConfigError: If the file cannot be read.
    """
    try:
        lines = file.read_bytes().split(b"\n")
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror or error}") from error
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        try:
            text = line.decode()
            record = _record(text)
        except ValueError as error:
            if number < len(lines):  # the last one has no line end: its writer was stopped in the middle
                on_bad(f"{file}:{number}: {error}")
            continue
        yield text, record


def _record(text: str) -> Point:
    """Reads a line.

    Raises:
        ValueError: If it is not a measurement.
    """
    # JSON has no infinity and no NaN, but some writers do.
    record = json.loads(text, parse_constant=lambda name: None)
    if not isinstance(record, dict):
        raise ValueError("it is no JSON object")
    if "event" in record:
        return record
    if type(record.get("step")) is not int or record["step"] < 0:
        raise ValueError(f"step is {record.get('step')!r}, which is no count of updates")
    if "loss" not in record and "eval_loss" not in record:
        raise ValueError("it has neither loss nor eval_loss")
    for name in (*TRAINING, *VALIDATION, "seconds"):
        value = record.get(name)
        if value is not None and type(value) not in (int, float):
            raise ValueError(f"{name} is {value!r}, which is no number")
    return record
