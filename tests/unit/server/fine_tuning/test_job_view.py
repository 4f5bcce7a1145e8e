"""The live view of a job: how far it is, whatever its metrics are."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from convmodel.server.fine_tuning.job_store import JobRecord, JobSpec, JobStore
from convmodel.server.fine_tuning.job_view import MOST_POINTS, job_progress, job_view, seconds_left, thinned
from convmodel.training.metrics_reader import Metrics

SPEC = JobSpec("tiny", "tiny", "/models/tiny", "file-1", "supervised", {}, 42)


@pytest.fixture
def store(tmp_path: Path) -> JobStore:
    return JobStore(tmp_path / "tuned" / "jobs")


@pytest.fixture
def job(store: JobStore) -> JobRecord:
    return store.create(SPEC)


def write(store: JobStore, job: JobRecord, *records: Any) -> None:
    store.model(job.id).mkdir(exist_ok=True)
    text = "".join(f"{json.dumps(record)}\n" for record in records)
    (store.model(job.id) / "metrics.jsonl").write_text(text)


def test_a_job_that_waits_has_nothing_yet(store: JobStore, job: JobRecord) -> None:
    view = job_view(job, store)
    assert (view["step"], view["total_steps"], view["seconds_left"], view["verdict"]) == (0, None, None, None)
    assert (view["train"], view["valid"], view["samples"], view["checks"], view["model"]) == ([], [], [], None, None)


def test_curves_have_what_was_measured(store: JobStore, job: JobRecord) -> None:
    write(
        store, job, {"event": "begin", "steps": 30}, {"step": 0, "eval_loss": 4.0, "eval_perplexity": 54.6},
        {"step": 1, "loss": 3.5}, {"step": 2, "loss": None}, {"step": 3, "loss": 3.0},
        {"step": 3, "eval_loss": None, "eval_perplexity": None}, {"step": 4, "eval_loss": 3.0},
    )  # fmt: skip
    view = job_view(job, store)
    assert (view["total_steps"], view["step"]) == (30, 4)
    assert view["train"] == [[1, 3.5], [3, 3.0]]
    assert view["valid"] == [[0, 4.0, 54.6], [4, 3.0, None]]
    write(store, job, {"step": "one"}, {"step": 1, "loss": 3.5})  # damaged, which the run itself reports
    assert job_view(job, store)["step"] == 0


@pytest.mark.parametrize("text", ["", "{", "[]", '{"verdict": 1}', '{"verdict": ""}', "{}"])
def test_a_result_without_a_sentence_is_no_error(store: JobStore, job: JobRecord, text: str) -> None:
    succeeded = replace(job, status="succeeded")
    assert job_progress(succeeded, store)["verdict"] is None
    store.result(job.id).write_text(text)
    assert job_progress(succeeded, store)["verdict"] is None
    store.result(job.id).write_text('{"verdict": "Better."}')
    assert job_progress(succeeded, store)["verdict"] == "Better."
    assert job_progress(succeeded, store)["model"] == job.model_name
    folder = f"{store.model(job.id).parent.parent.parent.name}/jobs/{job.id}/model"
    assert job_progress(succeeded, store)["folder"] == folder  # and not where it is: clients need not know
    assert job_progress(job, store)["folder"] is None
    assert job_progress(job, store)["verdict"] is None  # it does not run yet


def test_the_time_left_follows_the_speed() -> None:
    def left(now: float = 0.0, **point: Any) -> float | None:
        first = {"step": 5, "loss": 3.1, "seconds": 10.0}
        return seconds_left(Metrics("run", [first, {"step": 10, "loss": 3.0} | point], [], {"steps": 30}), now)

    assert left(seconds=20.0) == 40.0
    assert left(seconds=None) is None
    assert left(seconds=20.0, step=40) == 0.0
    assert left(seconds=20.0, time="1970-01-01T00:01:00+00:00", now=70.0) == 30.0
    assert left(seconds=20.0, time="1970-01-01T00:01:00+00:00", now=7000.0) == 0.0
    assert left(seconds=20.0, time="1970-01-01T00:01:00+00:00", now=0.0) == 40.0  # a clock that was set back
    assert seconds_left(Metrics("run", [], [], {"steps": 30}), 0.0) is None
    points = [{"step": step, "loss": 3.0, "seconds": 1.0 * step} for step in (1, 2)]
    assert seconds_left(Metrics("run", points, []), 0.0) is None
    assert seconds_left(Metrics("run", points[:1], [], {"steps": 30}), 0.0) is None  # of a start-up, perhaps
    assert seconds_left(Metrics("run", points[:1] * 2, [], {"steps": 30}), 0.0) is None


def test_the_start_up_does_not_count_for_the_time_left() -> None:
    seconds = {1: 100.0, 2: 102.0, 3: 104.0}
    points = [{"step": step, "loss": 3.0, "seconds": value} for step, value in seconds.items()]
    assert seconds_left(Metrics("run", points, [], {"steps": 30}), 0.0) == 54.0


@pytest.mark.parametrize("count", [0, 1, 499, 500, 501, 999, 5000])
def test_a_thinned_curve_has_its_ends(count: int) -> None:
    points = thinned(range(count))
    assert len(points) == min(count, MOST_POINTS)
    assert points == sorted({*points})
    assert points[:1] == [*range(count)][:1]
    assert points[-1:] == [*range(count)][-1:]
