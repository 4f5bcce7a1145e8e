"""Metrics as events and as a file of results."""

import json
from pathlib import Path

from convmodel.server.fine_tuning.job_metrics import kept_step, metric_events, result_csv, trained_tokens

LINES = [
    {"event": "begin", "steps": 2, "config": {}},
    {"step": 1, "loss": 2.5, "tokens": 10, "learning_rate": 1e-4, "time": "2026-01-01T00:00:00+00:00"},
    {"step": 2, "loss": None, "tokens": 20, "time": "2026-01-01T00:00:01+00:00"},
    {"step": 2, "eval_loss": 3.0, "eval_perplexity": 20.1, "time": "2026-01-01T00:00:01+00:00"},
]


def test_each_measurement_is_an_event(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES) + '{"step": 3, "lo')
    events = metric_events(tmp_path / "metrics.jsonl", "ftjob-1")
    assert [event["id"] for event in events] == ["ftevent-1-train-1", "ftevent-1-train-2", "ftevent-1-valid-2"]
    assert [event["message"] for event in events] == [
        "Step 1: training loss 2.5000",
        "Step 2: training loss not a number",
        "Step 2: validation loss 3.0000",
    ]
    assert events[0]["data"] == {"step": 1, "train_loss": 2.5, "learning_rate": 1e-4}
    assert (events[1]["time"] - events[0]["time"], {event["type"] for event in events}) == (1.0, {"metrics"})
    assert trained_tokens(tmp_path / "metrics.jsonl") == 20


def test_results_have_a_row_per_step(tmp_path: Path) -> None:
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in LINES))
    rows = result_csv(tmp_path / "metrics.jsonl").decode().splitlines()
    assert rows == ["step,train_loss,valid_loss,valid_perplexity,learning_rate", "1,2.5,,,0.0001", "2,,3.0,20.1,"]


def test_the_step_that_is_kept_is_the_best_validation_or_the_last_step(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    worse = {"step": 3, "eval_loss": 3.5, "time": "2026-01-01T00:00:02+00:00"}
    path.write_text("".join(json.dumps(line) + "\n" for line in [*LINES, worse]))
    assert kept_step(path) == {"step": 2, "valid_loss": 3.0, "valid_perplexity": 20.1}
    path.write_text("".join(json.dumps(line) + "\n" for line in LINES[:3]))
    assert kept_step(path) == {"step": 2}


def test_without_metrics_there_is_nothing(tmp_path: Path) -> None:
    for content in (None, "damaged\n\n"):
        if content is not None:
            (tmp_path / "metrics.jsonl").write_text(content)
        assert metric_events(tmp_path / "metrics.jsonl", "ftjob-1") == []
        assert result_csv(tmp_path / "metrics.jsonl") == b"step\n"
        assert trained_tokens(tmp_path / "metrics.jsonl") is None
        assert kept_step(tmp_path / "metrics.jsonl") is None
