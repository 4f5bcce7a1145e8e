"""Metrics: their definitions, confidence intervals, and differences between two models.

Owns: the declaration of a metric, metrics as formulas over sums per conversation, and the bootstrap over conversations.
Knows no model and no text.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from enum import StrEnum
from typing import Any, Generic, Literal, TypeAlias, TypeVar

import numpy as np
import numpy.typing as npt

from convmodel.errors import ConfigError
from convmodel.evaluation.wilson import wilson

Item = TypeVar("Item")

Sums: TypeAlias = npt.NDArray[np.float64]
"""One row per conversation, or per resample of them; the columns are what a metric's formula needs."""

Formula: TypeAlias = Callable[[Sums], Sums]
"""Computes values, of shape (...), from sums, of shape (..., columns)."""

RESAMPLES = 1000
"""The number of bootstrap resamples; 25 of them lie outside the interval on either side."""

FEWEST = 6
"""The number of conversations from which on two models can differ: of five, all change alike in 1 of 16 cases."""

_DRAWS_IN_MEMORY = 1 << 22
_NO_INTERVAL = (math.nan, math.nan)


class Topic(StrEnum):
    """The sections of a report, in its order."""

    PREDICTION = "Prediction of the reference turns"
    TURN_ENDS = "Prediction of turn ends"
    NEXT_TURNS = "Ranking of next turns"
    RESPONSES = "Generated responses"
    COPIES = "Copies of training data"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with the interval that 95 % of the resamples lie in, and the number of conversations that it rests on.

    The value is NaN where nothing was measured; the interval, where there are fewer than two conversations, or the
    metric has none.
    """

    value: float
    low: float
    high: float
    conversations: int

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as JSON has them: null for NaN and infinity."""
        return {name: value if math.isfinite(value) else None for name, value in asdict(self).items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Definition:
    """The definition of a metric: all that a report needs to show and compare its values.

    A metric without an explanation is not part of reports and verdicts, but of JSON and of the terminal's table. A
    count of distinct things is not resampled: what is drawn twice is not distinct, so each resample would be too low.
    """

    name: str  # the key in JSON
    label: str  # the name in reports, with the unit if there is one
    topic: Topic
    explanation: str = ""  # for readers who do not know the metric
    better: Literal["lower", "higher", "neither"] = "neither"  # neither: only descriptive, not compared
    percent: bool = False  # whether the values are fractions, shown in percent
    per_token: bool = False  # whether its values depend on the vocabulary: only models of the same one are compared
    resampled: bool = True  # whether it has an interval


@dataclass(frozen=True, kw_only=True)
class Ratio(Definition, Generic[Item]):
    """A metric that is one sum over items divided by another, such as a loss.

    `above` and `below` are what an item adds to the numerator and to the denominator, by default 1, which makes the
    metric a mean. `transform` is applied to the ratio.

    Example:
        >>> loss = Ratio[tuple[float, int]](name="loss", label="nats per token", topic=Topic.PREDICTION,
        ...     above=lambda turn: turn[0], below=lambda turn: turn[1])
        >>> loss.measure([[(4.0, 1), (2.0, 1)], [(4.0, 3)]]).value
        2.0
    """

    above: Callable[[Item], float]
    below: Callable[[Item], float] = lambda item: 1.0
    transform: Formula = lambda values: values

    def measure(self, conversations: Iterable[Iterable[Item]]) -> "Metric":
        """Sums up the items of each conversation."""
        sums = [
            [math.fsum(map(part, items)) for part in (self.above, self.below)] for items in map(list, conversations)
        ]
        return Metric(self, np.array(sums, np.float64).reshape(-1, 2), self._formula)

    def _formula(self, sums: Sums) -> Sums:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return self.transform(np.where(sums[..., 1] == 0, np.nan, sums[..., 0] / sums[..., 1]))


@dataclass(frozen=True, slots=True, eq=False)
class Metric:
    """A metric of one model: its definition, and the sums that its formula makes values of.

    The rows have the shape (conversations, columns); one of zeros is a conversation without anything to count.
    """

    definition: Definition
    rows: Sums
    formula: Formula

    @property
    def name(self) -> str:
        """The definition's name."""
        return self.definition.name

    @property
    def value(self) -> float:
        """The value alone, without an interval; NaN where nothing was measured."""
        return _value(self, self.rows[self.is_measured])

    @property
    def is_measured(self) -> npt.NDArray[np.bool_]:
        """Which conversations have something to count."""
        measured: npt.NDArray[np.bool_] = (self.rows != 0).any(axis=1)
        return measured

    def estimate(self, seed: int = 0) -> Estimate:
        """Computes the value and its interval: the percentile bootstrap over conversations.

        Conversations are drawn, not tokens, because tokens of one conversation are alike. Source: B. Efron and
        R. Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
        """
        rows, value = self.rows[self.is_measured], self.value
        low, high = _bootstrap(self.formula, rows, seed) if self.definition.resampled else _NO_INTERVAL
        if self.definition.percent and low == high == value and value in (0, 1):
            # All conversations are alike, and so is every draw; that 0 of 20 are empty does not mean that none will be.
            low, high = wilson(round(value * len(rows)), len(rows))
        return Estimate(value, low, high, len(rows))

    def spread(self, places: Sequence[int], total: int) -> "Metric":
        """Returns the metric with its rows at some places among others that have nothing to count."""
        rows = np.zeros((total, self.rows.shape[1]))
        rows[list(places)] = self.rows
        return replace(self, rows=rows)


Verdict: TypeAlias = Literal["better", "worse", "different", "none"]


@dataclass(frozen=True, slots=True)
class Difference:
    """The difference of a metric between two models, on conversations that both were measured on.

    The difference is the second value less the first. Where its interval leaves 0 out, the verdict on the second model
    is `better` or `worse`, or `different` where neither direction is better; else it is `none`. It tells nothing where
    the conversations are `too_few`.
    """

    definition: Definition
    first: float
    second: float
    difference: Estimate
    verdict: Verdict

    @property
    def too_few(self) -> bool:
        """Whether it rests on fewer than `FEWEST` conversations, or has no interval."""
        return self.difference.conversations < FEWEST or math.isnan(self.difference.low)

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as JSON has them: null for NaN and infinity."""
        return {
            "name": self.definition.name,
            "label": self.definition.label,
            "first": self.first if math.isfinite(self.first) else None,
            "second": self.second if math.isfinite(self.second) else None,
            "difference": self.difference.to_dict(),
            "verdict": "too few" if self.too_few else self.verdict,
            "percent": self.definition.percent,
        }


def compare_metrics(first: Metric, second: Metric, seed: int = 0) -> Difference:
    """Compares two models by the paired bootstrap: both have the same conversations in every resample.

    What makes a conversation hard for both cancels out, so far smaller differences show than by two intervals. Source:
    P. Koehn, Statistical Significance Tests for Machine Translation Evaluation (2004), section 4.

    Raises:
        ConfigError: If the metrics are not of the same conversations.

    Example:
        >>> mean = Ratio[float](name="loss", label="", topic=Topic.PREDICTION, better="lower", above=lambda loss: loss)
        >>> loss = compare_metrics(mean.measure([[3], [4], [5]]), mean.measure([[1], [3], [1]]))
        >>> round(loss.difference.value, 2), loss.verdict
        (-2.33, 'better')
    """
    if first.name != second.name or len(first.rows) != len(second.rows):
        raise ConfigError(f"{first.name} and {second.name} are not metrics of the same conversations")
    both = first.is_measured & second.is_measured
    rows, columns = np.concatenate([first.rows, second.rows], axis=1)[both], first.rows.shape[1]

    def difference(sums: Sums) -> Sums:
        return second.formula(sums[..., columns:]) - first.formula(sums[..., :columns])

    has_interval = first.definition.resampled and second.definition.resampled
    low, high = _bootstrap(difference, rows, seed) if has_interval else _NO_INTERVAL
    values = _value(first, rows[:, :columns]), _value(second, rows[:, columns:])
    estimate = Estimate(values[1] - values[0], low, high, int(both.sum()))
    return Difference(first.definition, *values, estimate, _verdict(estimate, first.definition.better))


def _verdict(difference: Estimate, better: str) -> Verdict:
    if not (difference.low > 0 or difference.high < 0):
        return "none"
    if better == "neither":
        return "different"
    return "better" if (difference.value > 0) == (better == "higher") else "worse"


def _value(metric: Metric, rows: Sums) -> float:
    # fsum is exact, so the order of the conversations does not matter.
    sums = np.array([math.fsum(column) for column in rows.T])
    return float(metric.formula(sums)) if len(rows) else math.nan


def _bootstrap(formula: Formula, rows: Sums, seed: int) -> tuple[float, float]:
    """Returns the interval of a formula over conversations drawn with replacement, some resamples at a time."""
    count, values = len(rows), []
    if count < 2:
        return _NO_INTERVAL
    generator = np.random.default_rng(seed)
    at_once = max(1, _DRAWS_IN_MEMORY // count)
    for start in range(0, RESAMPLES, at_once):
        size = min(at_once, RESAMPLES - start)
        draws = generator.multinomial(count, np.full(count, 1 / count), size=size)
        values.append(formula(draws.astype(np.float64) @ rows))
    measured = np.concatenate(values)
    measured = measured[~np.isnan(measured)]
    if not len(measured):
        return _NO_INTERVAL
    low, high = np.percentile(measured, [2.5, 97.5], method="inverted_cdf")  # which allows infinities
    return float(low), float(high)
