"""Metrics, their intervals and differences, on values that a reader can check by hand."""

import math
from typing import Any

import numpy as np
import pytest

from convmodel.errors import ConfigError
from convmodel.evaluation.metric import Definition, Metric, Ratio, Topic, compare_metrics


def ratio(name: str, above: Any, below: Any, **options: Any) -> Metric:
    """A ratio of sums, one item per conversation."""
    definition: Ratio[tuple[float, float]] = Ratio(
        name=name, label="", topic=Topic.PREDICTION, above=lambda item: item[0], below=lambda item: item[1], **options
    )
    return definition.measure([[item] for item in zip(above, below, strict=True)])


def test_a_ratio_is_of_sums_and_not_a_mean_of_ratios() -> None:
    found = ratio("loss", [9.0, 1.0], [3, 1]).estimate()

    assert found.value == 2.5
    assert found.conversations == 2


def test_an_interval_holds_the_percentiles_of_the_resamples() -> None:
    # Of two conversations a resample has the first twice, both, or the second twice: 1/4, 1/2, 1/4.
    found = ratio("loss", [1.0, 3.0], [1, 1]).estimate()

    assert (found.low, found.value, found.high) == (1.0, 2.0, 3.0)


def test_an_interval_is_as_wide_as_theory_says() -> None:
    values = np.random.default_rng(3).normal(5, 2, size=400)

    found = ratio("loss", values, np.ones(400)).estimate()

    half = 1.96 * values.std() / 20
    assert found.low == pytest.approx(values.mean() - half, abs=0.04)
    assert found.high == pytest.approx(values.mean() + half, abs=0.04)


def test_the_seed_decides_and_the_order_hardly_matters() -> None:
    metric = ratio("loss", [1.0, 5.0, 2.0, 7.0], [1, 2, 1, 3])

    assert metric.estimate(1) == metric.estimate(1)
    assert metric.estimate(1).value == ratio("loss", [7.0, 2.0, 5.0, 1.0], [3, 1, 2, 1]).estimate(2).value


def test_conversations_without_anything_to_count_do_not_count() -> None:
    found = ratio("loss", [4.0, 0.0, 0.0], [2, 0, 1]).estimate()

    assert found.conversations == 2
    assert found.value == pytest.approx(4 / 3)


@pytest.mark.parametrize(("above", "below", "value"), [([4.0], [2], 2.0), ([0.0], [0], math.nan)])
def test_of_one_conversation_or_none_there_is_no_interval(above: list[float], below: list[int], value: float) -> None:
    found = ratio("loss", above, below).estimate()

    assert found.value == pytest.approx(value, nan_ok=True)
    assert math.isnan(found.low)
    assert found.to_dict()["low"] is None


def test_a_transform_is_of_the_ratio() -> None:
    assert ratio("perplexity", [2.0, 4.0], [1, 2], transform=np.exp).estimate().value == pytest.approx(math.exp(2))
    assert ratio("perplexity", [5e3, 5e3], [1, 1], transform=np.exp).estimate().value == math.inf


def test_none_of_ten_does_not_mean_that_there_are_none() -> None:
    none = ratio("empty", [0.0] * 10, [1] * 10, percent=True).estimate()
    every = ratio("empty", [1.0] * 10, [1] * 10, percent=True).estimate()

    assert (none.value, none.low, none.high) == (0, 0, pytest.approx(0.2775, abs=1e-4))
    assert (every.value, every.low, every.high) == (1, pytest.approx(0.7225, abs=1e-4), 1)


def test_a_count_of_different_things_has_no_interval() -> None:
    definition = Definition(name="distinct", label="", topic=Topic.RESPONSES, resampled=False)
    metric = Metric(definition, np.array([[1.0], [2.0]]), lambda sums: sums[..., 0])

    assert metric.estimate().value == 3.0
    assert math.isnan(metric.estimate().low)
    assert compare_metrics(metric, metric).verdict == "none"


LOSS = [3.0, 8.0, 2.0, 6.0, 4.0]


@pytest.mark.parametrize("seed", range(100))
def test_identical_models_do_not_differ(seed: int) -> None:
    found = compare_metrics(ratio("loss", LOSS, [1] * 5), ratio("loss", LOSS, [1] * 5), seed)

    assert found.verdict == "none"
    assert (found.difference.low, found.difference.value, found.difference.high) == (0, 0, 0)


@pytest.mark.slow
def test_models_that_differ_by_chance_alone_are_told_apart_in_about_one_of_twenty_cases() -> None:
    chance = np.random.default_rng(0)
    verdicts = []
    for _ in range(200):
        first, second = chance.normal(5, 1, size=(2, 60))
        verdicts.append(compare_metrics(ratio("loss", first, np.ones(60)), ratio("loss", second, np.ones(60))))

    told = sum(found.verdict != "none" for found in verdicts)
    assert 2 <= told <= 20  # 10 expected


@pytest.mark.parametrize(("better", "verdict"), [("lower", "better"), ("higher", "worse"), ("neither", "different")])
def test_a_small_difference_everywhere_shows_though_the_intervals_overlap(better: str, verdict: str) -> None:
    first = ratio("loss", LOSS, [1] * 5, better=better)
    second = ratio("loss", [nats - 0.1 for nats in LOSS], [1] * 5, better=better)

    found = compare_metrics(first, second)

    assert found.verdict == verdict
    assert found.difference.value == pytest.approx(-0.1)
    assert (found.difference.low, found.difference.high) == pytest.approx((-0.1, -0.1))
    assert first.estimate().low < second.estimate().value < first.estimate().high


def test_only_conversations_that_both_were_measured_on_are_compared() -> None:
    found = compare_metrics(ratio("loss", [1.0, 2.0, 0.0], [1, 1, 0]), ratio("loss", [1.0, 3.0, 90.0], [1, 1, 1]))

    assert found.difference.conversations == 2
    assert found.difference.value == pytest.approx(0.5)
    assert found.to_dict()["difference"]["value"] == pytest.approx(0.5)


def test_other_conversations_cannot_be_compared() -> None:
    with pytest.raises(ConfigError, match="not metrics of the same conversations"):
        compare_metrics(ratio("loss", [1.0], [1]), ratio("loss", [1.0, 2.0], [1, 1]))


def test_a_ratio_sums_the_items_of_each_conversation_and_counts_them_by_default() -> None:
    mean: Ratio[int] = Ratio(name="mean", label="", topic=Topic.PREDICTION, above=lambda item: item)

    metric = mean.measure([[1, 2], [], [6]])

    assert metric.rows.tolist() == [[3, 2], [0, 0], [6, 1]]
    assert (metric.value, metric.is_measured.tolist()) == (3, [True, False, True])
    assert math.isnan(mean.measure([]).value)


def test_rows_are_spread_over_all_conversations() -> None:
    metric = ratio("loss", [3.0, 5.0], [1, 1]).spread([2, 0], 4)

    assert metric.rows.tolist() == [[5, 1], [0, 0], [3, 1], [0, 0]]
    assert metric.value == 4
