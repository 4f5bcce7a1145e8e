"""The metrics of a job as events, as a file of results, and as its number of tokens.

Owns: their forms in OpenAI's API. The file that they come from is `convmodel.training.metrics_reader`'s.
"""

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from convmodel.errors import ConfigError
from convmodel.training.metrics_reader import Point, read_metrics

COLUMNS = {
    "step": "step",
    "train_loss": "loss",
    "valid_loss": "eval_loss",
    "valid_perplexity": "eval_perplexity",
    "epoch": "epoch",
    "learning_rate": "learning_rate",
    "tokens_per_second": "tokens_per_second",
    "preference_accuracy": "preference_accuracy",
    "reward_margin": "reward_margin",
}
"""The columns of a file of results, and the metrics that they show."""


def metric_events(path: Path, id: str) -> list[dict[str, Any]]:
    """Returns an event for each measurement of a run, with `time` in seconds since 1970; empty before the first one."""
    events = []
    for point in _points(path):
        is_training = "loss" in point
        data = {name: point[key] for name, key in COLUMNS.items() if point.get(key) is not None}
        shown = "training loss" if is_training else "validation loss"
        loss = data.get("train_loss" if is_training else "valid_loss")
        value = "not a number" if loss is None else f"{loss:.4f}"
        events.append(
            {
                "id": f"ftevent-{id.removeprefix('ftjob-')}-{'train' if is_training else 'valid'}-{point['step']}",
                "time": measured_at(point),
                "level": "info",
                "message": f"Step {point['step']}: {shown} {value}",
                "data": data,
                "type": "metrics",
            }
        )
    return events


def described_events(events: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Returns events with their `time`, the newest first, in the form of OpenAI's API."""
    ordered = sorted(events, key=lambda event: float(event["time"]))
    return [
        {
            "object": "fine_tuning.job.event",
            "id": event["id"],
            "created_at": int(event["time"]),
            "level": event["level"],
            "message": event["message"],
            "data": event["data"],
            "type": event.get("type", "message"),
        }
        for event in reversed(ordered)
    ]


def result_csv(path: Path) -> bytes:
    """Returns the metrics of a run as CSV, one row per step; empty cells were not measured."""
    rows = _rows(path)
    text = io.StringIO()
    names = [name for name in COLUMNS if any(name in row for row in rows.values())] or ["step"]
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows[step] for step in sorted(rows))
    return text.getvalue().encode()


def kept_step(path: Path) -> dict[str, Any] | None:
    """Returns the metrics of the step whose weights a run has kept; None if it measured nothing.

    That is the best validation; of a run without one, or on preferences, the last step.
    """
    try:
        best = read_metrics(path).best
    except ConfigError:
        return None
    rows = _rows(path)
    return rows[max(rows) if best is None else best["step"]] if rows else None


def trained_tokens(path: Path) -> int | None:
    """Returns the number of tokens that a run has trained on; None if it measured nothing."""
    counts = [int(point["tokens"]) for point in _points(path) if "loss" in point and point.get("tokens")]
    return max(counts, default=None)


def measured_at(point: Mapping[str, Any]) -> float:
    """Returns when something was measured, in seconds since 1970; 0 if that is unknown."""
    try:
        return datetime.fromisoformat(str(point["time"])).timestamp()
    except (KeyError, ValueError):
        return 0.0


def _rows(path: Path) -> dict[int, dict[str, Any]]:
    """Returns what was measured at each step."""
    rows: dict[int, dict[str, Any]] = {}
    for point in _points(path):
        row = rows.setdefault(point["step"], {})
        row |= {name: point[key] for name, key in COLUMNS.items() if point.get(key) is not None}
    return rows


def _points(path: Path) -> Iterator[Point]:
    try:
        metrics = read_metrics(path)
    except ConfigError:  # not there yet, or damaged, which the run itself reports
        return
    points = [*metrics.train, *(point for point in metrics.validations if "loss" not in point)]
    yield from sorted(points, key=lambda point: int(point["step"]))
