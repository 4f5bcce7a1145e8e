"""A job as a live view shows it: how far it is, its curves, what the model says, and how it ended.

Owns: the form of this view, and the seconds left. The metrics are `convmodel.training.metrics_reader`'s, the sentence
at the end `convmodel.training.verdict`'s.
"""

import json
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from convmodel.errors import ConfigError
from convmodel.server.fine_tuning.commands import read_findings
from convmodel.server.fine_tuning.job_metrics import measured_at
from convmodel.server.fine_tuning.job_store import JobRecord, JobStore
from convmodel.training.metrics_reader import Metrics, is_finite, read_metrics
from convmodel.training.samples_file import read_samples

MOST_POINTS = 500
"""Points of the training curve, and lines of samples, that are shown."""

T = TypeVar("T")


def job_progress(job: JobRecord, store: JobStore) -> dict[str, Any]:
    """Returns how far a job is and how it ended, without its curves."""
    metrics = _metrics(store, job.id)
    points = [*metrics.train, *metrics.validations]
    described = job.describe()
    return {
        "object": "train.job",
        "job": described,
        "total_steps": metrics.begin.get("steps"),
        "step": max((int(point["step"]) for point in points), default=0),
        "seconds_left": seconds_left(metrics, time.time()) if job.status == "running" else None,
        "verdict": _verdict(store.result(job.id)) if job.status == "succeeded" else None,
        "base": job.spec.base,
        "model": described["fine_tuned_model"],
        "folder": _folder(store.model(job.id)) if described["fine_tuned_model"] else None,
    }


def job_view(job: JobRecord, store: JobStore) -> dict[str, Any]:
    """Returns all that a live view of a job needs."""
    metrics = _metrics(store, job.id)
    train = [[point["step"], point["loss"]] for point in metrics.train if is_finite(point["loss"])]
    valid = [
        [point["step"], point["eval_loss"], point.get("eval_perplexity")]
        for point in metrics.validations
        if is_finite(point["eval_loss"])
    ]
    return job_progress(job, store) | {
        "train": thinned(train),
        "valid": thinned(valid),
        "samples": read_samples(store.model(job.id))[-MOST_POINTS:],
        "checks": read_findings(store.check(job.id)),
    }


def seconds_left(metrics: Metrics, now: float) -> float | None:
    """Returns how long a run will take from now on, at the speed so far; None before its second measurement.

    The steps before the first measurement do not count: the validation before them and their start-up take longer.

    Args:
        metrics: What it has measured.
        now: Seconds since 1970.

    Example:
        >>> first = {"step": 5, "loss": 3.1, "seconds": 40.0}
        >>> point = {"step": 10, "loss": 3.0, "seconds": 50.0, "time": "1970-01-01T00:01:00+00:00"}
        >>> seconds_left(Metrics("run", [first, point], [], {"steps": 30}), now=65)
        35.0
    """
    steps = metrics.begin.get("steps")
    timed = [point for point in metrics.train if is_finite(point.get("seconds"))]
    if len(timed) < 2 or not isinstance(steps, int):
        return None
    first, last = timed[0], timed[-1]
    trained = int(last["step"]) - int(first["step"])
    if trained <= 0:
        return None
    left = (float(last["seconds"]) - float(first["seconds"])) / trained * max(0, steps - last["step"])
    passed = max(0.0, now - measured_at(last)) if measured_at(last) else 0.0
    return round(float(max(0.0, left - passed)), 1)


def thinned(points: Sequence[T]) -> list[T]:
    """Returns at most `MOST_POINTS` of some points, evenly, with the first and the last one.

    Example:
        >>> thinned(range(3)), len(thinned(range(1200))), thinned(range(1200))[:2], thinned(range(1200))[-1]
        ([0, 1, 2], 500, [0, 2], 1199)
    """
    if len(points) <= MOST_POINTS:
        return [*points]
    return [points[at * (len(points) - 1) // (MOST_POINTS - 1)] for at in range(MOST_POINTS)]


def _folder(model: Path) -> str:
    """Returns the folder of a model from the server's folder for training on; where that is, clients need not know.

    Example:
        >>> _folder(Path("/home/ann/tuned/jobs/ftjob-1/model"))
        'tuned/jobs/ftjob-1/model'
    """
    return "/".join(model.parts[-4:])


def _metrics(store: JobStore, id: str) -> Metrics:
    try:
        return read_metrics(store.metrics(id))
    except ConfigError:  # not there yet, or damaged, which the run itself reports
        return Metrics(id, [], [])


def _verdict(path: Path) -> str | None:
    """Returns what `convmodel fit` says at its end; None if it was killed after it had written its model."""
    with suppress(OSError, ValueError, RecursionError):
        result = json.loads(path.read_bytes())
        if isinstance(result, dict) and isinstance(sentence := result.get("verdict"), str):
            return sentence or None
    return None
