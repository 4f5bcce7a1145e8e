"""Values and metrics as people read them."""

import math
from collections.abc import Callable

import numpy as np
import pytest

from convmodel.evaluation.likelihood_metrics import LIKELIHOOD, RANKED_BY_GAIN, RANKED_BY_TOKEN
from convmodel.evaluation.metric import Estimate, Topic
from convmodel.evaluation.response_metrics import LOOPS
from convmodel.report.evaluation.explanations import Cell, format_value, sections, summary
from convmodel.report.evaluation.model_evaluation import ModelEvaluation

Evaluate = Callable[..., ModelEvaluation]


def test_every_metric_of_an_evaluation_is_explained(evaluated: Evaluate) -> None:
    definitions = [LOOPS, *LIKELIHOOD, *RANKED_BY_TOKEN.values(), *RANKED_BY_GAIN.values()]
    definitions += [metric.definition for metric in evaluated("A").metrics]

    assert {each.name for each in definitions if not each.explanation} == {"loss"}  # perplexity says the same


def test_metrics_stand_in_sections_and_models_only_where_they_have_any(evaluated: Evaluate) -> None:
    [accuracy] = [metric for metric in evaluated("A").metrics if metric.name == "token_accuracy"]

    parts = sections([evaluated("A"), ModelEvaluation("B", metrics=[accuracy])], seed=0)

    assert [part.topic for part in parts] == [Topic.PREDICTION, Topic.RESPONSES, Topic.COPIES]
    assert parts[0].names == ["A", "B"]
    assert parts[0].rows[2][1][1].text == "25.0 % (25.0 to 25.0)"
    assert parts[0].rows[0][1][1] == Cell("", "")
    assert [part.names for part in parts[1:]] == [["A"], ["A"]]


def test_the_summary_is_sentences_of_values(evaluated: Evaluate) -> None:
    text = " ".join(summary(evaluated("A")))

    assert f"The perplexity is {np.exp(2.35):.2f}:" in text
    assert "0% of the responses reached the maximum length, 0% are empty" in text


def test_what_was_not_measured_is_not_a_percentage() -> None:
    assert Cell.of(Estimate(math.nan, math.nan, math.nan, 0), percent=True).text == "none"


@pytest.mark.parametrize(
    ("value", "percent", "expected"), [(0.5, True, "50.0"), (99.99, False, "99.99"), (-0.12345, False, "-0.123")]
)
def test_values(value: float, percent: bool, expected: str) -> None:
    assert format_value(value, percent) == expected
