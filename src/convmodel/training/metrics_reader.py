"""The metrics of a fit, from its `metrics.jsonl`.

Owns: the format of that file, and reading it. Imports nothing heavy, so that `convmodel plot` is quick; the file is
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
"""Name of the file in a model's folder."""

TRAINING = ("loss", "perplexity", "learning_rate", "grad_norm", "tokens", "tokens_per_second")
"""Keys of a line about training beside `step`, `epoch`, `seconds` and `time`; transformers' names where they exist."""

PREFERENCE = (
    "reward_chosen", "reward_rejected", "reward_margin", "preference_accuracy", "log_prob_chosen", "log_prob_rejected",
    "kl",
)  # fmt: skip
"""More keys of a line about training of a fit that learns from judgements."""

VALIDATION = ("eval_loss", "eval_perplexity", "eval_bits_per_byte", "eval_ended", "eval_responses", "tokens")
"""Keys of a line about a validation beside those."""

Point = dict[str, Any]
"""A line: values by name, None for one that was not finite."""


@dataclass(frozen=True, slots=True)
class Metrics:
    """The metrics of one fit, in order."""

    name: str  # of its folder, or of the file if that is not the usual one
    train: Sequence[Point]
    validations: Sequence[Point]
    begin: dict[str, Any] = field(default_factory=dict)  # `config`, `windows`, `steps`, `parameters` and more

    @property
    def of_judgements(self) -> bool:
        """Whether the fit learned from judgements: then the training loss is not in nats per token."""
        config: dict[str, Any] = self.begin.get("config") or {}
        return bool(config.get("objective", "sft") != "sft")

    @property
    def best(self) -> Point | None:
        """The first validation with the lowest loss; None without any, or on judgements (the last good one)."""
        if self.of_judgements:
            return None
        finite = [point for point in self.validations if is_finite(point["eval_loss"])]
        return min(finite, key=lambda point: float(point["eval_loss"]), default=None)

    def summary(self) -> dict[str, Any]:
        """The metrics by which fits are compared; None for one that was not measured.

        `tokens_per_second` is the median, which a pause does not change.
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
    """Returns whether a value is a finite number."""
    return isinstance(value, int | float) and math.isfinite(value)


def _last(points: Sequence[Point], name: str) -> Any:
    return next((point[name] for point in reversed(points) if point.get(name) is not None), None)


def read_metrics(path: str | Path) -> Metrics:
    """Reads what a fit wrote, from a model's folder or the file itself.

    Raises:
        ConfigError: If there is no such file, or a line is invalid; the message names the line.
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
    """Reads what several fits wrote; fits whose folders have the same name are called by their paths.

    Raises:
        ConfigError: If one cannot be read, or is given twice.
    """
    repeated = next((path for number, path in enumerate(paths) if path in paths[:number]), None)
    if repeated is not None:
        raise ConfigError(f"{repeated} is given twice: give each fit once")
    runs = [read_metrics(path) for path in paths]
    names = [run.name for run in runs]
    return [
        replace(run, name=str(path)) if names.count(run.name) > 1 else run
        for path, run in zip(paths, runs, strict=True)
    ]


def _refuse(problem: str) -> NoReturn:
    raise ConfigError(f"{problem}: correct or remove that line")


def read_lines(file: Path, on_bad: Callable[[str], object]) -> Iterator[tuple[str, Point]]:
    """Yields each line as text and as a record; skips the half-written last line of a killed fit.

    `on_bad` gets the position and the problem of any other invalid line, which is skipped if it returns.
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
            if number < len(lines):  # the last one has no line end: its writer was stopped while writing
                on_bad(f"{file}:{number}: {error}")
            continue
        yield text, record


def _record(text: str) -> Point:
    """Parses a line, or raises a `ValueError`."""
    # JSON has no infinity and no nan, but some writers write them.
    record = json.loads(text, parse_constant=lambda name: None)
    if not isinstance(record, dict):
        raise ValueError("it is not a JSON object")
    if "event" in record:
        return record
    if type(record.get("step")) is not int or record["step"] < 0:
        raise ValueError(f"step is {record.get('step')!r}, which is not a number of steps")
    if "loss" not in record and "eval_loss" not in record:
        raise ValueError("it has neither loss nor eval_loss")
    for name in (*TRAINING, *PREFERENCE, *VALIDATION, "seconds"):
        value = record.get(name)
        if value is not None and type(value) not in (int, float):
            raise ValueError(f"{name} is {value!r}, which is not a number")
    return record
