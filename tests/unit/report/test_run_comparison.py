"""Fits side by side: metrics, and settings that differ."""

import math

from convmodel.report.run_comparison import differing_settings, run_metrics
from convmodel.training.metrics_reader import Metrics


def test_fits_have_their_metrics_side_by_side() -> None:
    train = [
        {"step": step, "loss": loss, "tokens": 100 * step, "tokens_per_second": speed, "seconds": 2.0 * step}
        for step, loss, speed in ((10, 3.0, 100.0), (20, 2.5, 900.0), (30, 2.0, 200.0))
    ]
    valid = [
        {"step": step, "eval_loss": loss, "eval_perplexity": math.exp(loss), "eval_bits_per_byte": 1.25}
        for step, loss in ((15, 2.75), (30, 2.875))
    ]
    runs = [Metrics("one", train, valid), Metrics("new", [], [])]

    assert run_metrics(runs) == [
        ["steps", "30", "0"],
        ["training tokens", "3,000", "-"],
        ["tokens per second", "200", "-"],
        ["training loss, last", "2.000", "-"],
        ["best validation loss", "2.750", "-"],
        ["best validation perplexity", "15.64", "-"],
        ["best validation bits per byte", "1.250", "-"],
        ["best step", "15", "-"],
    ]
    assert runs[0].summary()["seconds"] == 60.0


def test_settings_that_differ_are_found() -> None:
    one = {"config": {"seed": 1, "loss_on": "all", "output_dir": "one", "epochs": 3.0}, "precision": "bf16", "steps": 9}
    two = {"config": {"seed": 1, "loss_on": ["Ann"], "output_dir": "two", "lora": True, "epochs": 3.0}, "steps": 9}
    runs = [Metrics("one", [], [], one), Metrics("two", [], [], two)]

    assert differing_settings(runs) == [
        ["loss_on", "all", '["Ann"]'],
        ["precision", "bf16", "-"],
        ["lora", "-", "true"],
    ]
    assert differing_settings([runs[0]]) == []
