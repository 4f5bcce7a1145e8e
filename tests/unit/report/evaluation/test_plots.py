"""The pictures of a report."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from convmodel.report.evaluation import plots
from convmodel.report.evaluation.model_evaluation import ModelEvaluation
from convmodel.report.evaluation.plots import depth_plot, speed_plot


def test_models_are_told_apart_beside_bars(evaluated: Callable[..., ModelEvaluation]) -> None:
    models = [
        replace(evaluated(name), speed={"read": 10.0}) for name in ("builtin:chitchat", "runs/of/a-model-with-a-name")
    ]
    drawn = speed_plot(models)
    assert "chitchat input" in drawn
    assert "…ith-a-name input" in drawn


def test_each_value_stands_over_its_turn_when_models_have_different_turns(
    evaluated: Callable[..., ModelEvaluation], monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[Any] = []
    new_figure = plots.new_figure

    def recorded() -> Any:
        figure, axes = new_figure()
        drawn.append(axes)
        return figure, axes

    monkeypatch.setattr(plots, "new_figure", recorded)
    by_loss = {loss: evaluated("A", loss).metrics for loss in (1.0, 2.0, 3.0)}
    models = [
        replace(evaluated("A"), depths={"2": by_loss[2.0], "4": by_loss[3.0]}),
        replace(evaluated("B"), depths={"13+": by_loss[3.0], "3": by_loss[2.0], "1": by_loss[1.0]}),
    ]

    depth_plot(models, seed=0)

    (axes,) = drawn
    assert [label.get_text() for label in axes.get_xticklabels()] == ["1", "2", "3", "4", "13+"]
    places = [[round(place) for place in line.lines[0].get_xdata()] for line in axes.containers]
    assert places == [[1, 3], [0, 2, 4]]
    values = [line.lines[0].get_ydata().tolist() for line in axes.containers]
    assert values == [[by_loss[loss][0].value for loss in losses] for losses in ([2.0, 3.0], [1.0, 2.0, 3.0])]
