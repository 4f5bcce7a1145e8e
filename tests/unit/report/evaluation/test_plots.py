"""The pictures of a report."""

from collections.abc import Callable
from dataclasses import replace

from convmodel.report.evaluation.model_evaluation import ModelEvaluation
from convmodel.report.evaluation.plots import speed_plot


def test_models_are_told_apart_beside_bars(evaluated: Callable[..., ModelEvaluation]) -> None:
    models = [
        replace(evaluated(name), speed={"read": 10.0}) for name in ("builtin:chitchat", "runs/of/a-model-with-a-name")
    ]
    drawn = speed_plot(models)
    assert "chitchat input" in drawn
    assert "…ith-a-name input" in drawn
