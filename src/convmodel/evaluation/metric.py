"""A figure of an evaluation: what it says, how sure it is, and how it differs between two models.

Owns: figures as formulas over sums a conversation, and the bootstrap over conversations. Knows no model and no text.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from convmodel.errors import ConfigError
from convmodel.evaluation.wilson import wilson

Sums = npt.NDArray[np.float64]
"""One row a conversation, or a resample of them; the columns are what a figure's formula needs."""

RESAMPLES = 1000
"""How often conversations are drawn anew; the 2.5 % and 97.5 % percentiles then rest on 25 draws each."""

_AT_ONCE = 1 << 22  # draws in memory


@dataclass(frozen=True, slots=True)
class Estimate:
    """A number with the interval that 95 % of the resamples lie in.

    Attributes:
        value: Of all conversations; not a number where nothing was measured.
        low: The lower end; not a number where there are fewer than two conversations, or no interval can be made.
        high: The upper end.
        conversations: How many it rests on.
    """

    value: float
    low: float
    high: float
    conversations: int

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON has them: null for what is no number."""
        return {name: None if not math.isfinite(value) else value for name, value in asdict(self).items()}


@dataclass(frozen=True, slots=True, eq=False)
class Figure:
    """A number that is a formula over sums, and the summands of each conversation.

    Attributes:
        name: What programs call it.
        label: What people read.
        rows: The summands, of shape (conversations, columns); a row of zeros is a conversation without any.
        formula: Makes numbers, of shape (...), of sums of shape (..., columns).
        better: Whether a lower or a higher number is the better one; `neither` where it only describes.
        percent: Whether it is shown as a share of a hundred.
        resampled: Whether it has an interval. A count of different things has none: whatever is drawn twice is not
            different, so each resample is too low.
    """

    name: str
    label: str
    rows: Sums
    formula: Callable[[Sums], Sums]
    better: Literal["lower", "higher", "neither"] = "neither"
    percent: bool = False
    resampled: bool = True

    def estimate(self, seed: int = 0) -> Estimate:
        """Computes the number and its interval: the percentile bootstrap over conversations.

        Conversations are drawn, not tokens, because tokens of one conversation are alike. Source: B. Efron and
        R. Tibshirani, An Introduction to the Bootstrap (1993), chapter 13.
        """
        rows, value = self.rows[self.measured], self.value
        low, high = _percentiles(self.formula(sums) for sums in _resampled(rows, seed)) if self.resampled else _NONE
        if self.percent and low == high == value and value in (0, 1):
            # All conversations are alike, and so is every draw; that 0 of 20 are empty does not mean that none will be.
            low, high = wilson(round(value * len(rows)), len(rows))
        return Estimate(value, low, high, len(rows))

    def spread(self, places: Sequence[int], total: int) -> "Figure":
        """Returns the figure with its rows at some places among others that have nothing to count."""
        rows = np.zeros((total, self.rows.shape[1]))
        rows[list(places)] = self.rows
        return replace(self, rows=rows)

    @property
    def value(self) -> float:
        """The number alone, without an interval; not a number where nothing was measured."""
        return _value(self, self.rows[self.measured])

    @property
    def measured(self) -> npt.NDArray[np.bool_]:
        """Tells which conversations have something to count."""
        found: npt.NDArray[np.bool_] = (self.rows != 0).any(axis=1)
        return found


def ratio(
    name: str,
    label: str,
    above: Sequence[float] | Sums,
    below: Sequence[float] | Sums,
    *,
    better: Literal["lower", "higher", "neither"] = "neither",
    percent: bool = False,
    transform: Callable[[Sums], Sums] = lambda found: found,
) -> Figure:
    """Makes a figure that is one sum divided by another, such as a loss.

    Example:
        >>> ratio("loss", "nats a token", [6.0, 4.0], [2, 3]).estimate().value
        2.0
    """
    rows = np.column_stack([np.asarray(above, np.float64), np.asarray(below, np.float64)])

    def formula(sums: Sums) -> Sums:
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return transform(np.where(sums[..., 1] == 0, np.nan, sums[..., 0] / sums[..., 1]))

    return Figure(name, label, rows, formula, better, percent)


@dataclass(frozen=True, slots=True)
class Difference:
    """How much a figure of one model differs from that of another, on the conversations that both were measured on.

    Attributes:
        name: The figure.
        label: What people read.
        first: The first model's.
        second: The second model's.
        difference: The second's less the first's, with its interval.
        verdict: `better` or `worse` (the second model, where the interval leaves 0 out), `none`, or `different` where
            neither direction is the better one.
        percent: Whether these are shares, shown of a hundred.
    """

    name: str
    label: str
    first: float
    second: float
    difference: Estimate
    verdict: Literal["better", "worse", "different", "none"]
    percent: bool = False

    def to_dict(self) -> dict[str, Any]:
        """The fields as JSON has them."""
        return asdict(self) | {"difference": self.difference.to_dict()}


def difference(first: Figure, second: Figure, seed: int = 0) -> Difference:
    """Compares two models by the paired bootstrap: both have the same conversations in every resample.

    What makes a conversation hard for both cancels out, so far smaller differences show than by two intervals. Source:
    P. Koehn, Statistical Significance Tests for Machine Translation Evaluation (2004), section 4.

    Raises:
        ConfigError: If the figures are not of the same conversations.

    Example:
        >>> found = difference(ratio("loss", "", [3, 4, 5], [1, 1, 1], better="lower"), ratio("loss", "", [1, 3, 1],
        ...     [1, 1, 1], better="lower"))
        >>> round(found.difference.value, 2), found.verdict
        (-2.33, 'better')
    """
    if first.name != second.name or len(first.rows) != len(second.rows):
        raise ConfigError(f"{first.name} and {second.name} are not figures of the same conversations")
    both = first.measured & second.measured
    mine, theirs = first.rows[both], second.rows[both]
    columns = mine.shape[1]
    joined = np.concatenate([mine, theirs], axis=1)
    values = _value(first, mine), _value(second, theirs)
    low, high = (
        _percentiles(
            second.formula(sums[:, columns:]) - first.formula(sums[:, :columns]) for sums in _resampled(joined, seed)
        )
        if first.resampled and second.resampled
        else _NONE
    )
    found = Estimate(values[1] - values[0], low, high, int(both.sum()))
    return Difference(first.name, first.label, *values, found, _verdict(found, first.better), first.percent)


def _verdict(found: Estimate, better: str) -> Literal["better", "worse", "different", "none"]:
    if not (found.low > 0 or found.high < 0):
        return "none"
    if better == "neither":
        return "different"
    return "better" if (found.value > 0) == (better == "higher") else "worse"


_NONE = (math.nan, math.nan)


def _value(figure: Figure, rows: Sums) -> float:
    # fsum is exact, so the order of the conversations does not matter.
    sums = np.array([math.fsum(column) for column in rows.T])
    return float(figure.formula(sums)) if len(rows) else math.nan


def _resampled(rows: Sums, seed: int) -> Iterable[Sums]:
    """Yields the sums of conversations drawn with replacement, some resamples at a time."""
    count = len(rows)
    if count < 2:
        return
    chance = np.random.default_rng(seed)
    at_once = max(1, _AT_ONCE // count)
    for start in range(0, RESAMPLES, at_once):
        size = min(at_once, RESAMPLES - start)
        yield chance.multinomial(count, np.full(count, 1 / count), size=size).astype(np.float64) @ rows


def _percentiles(resamples: Iterable[Sums]) -> tuple[float, float]:
    found = [values[~np.isnan(values)] for values in resamples]
    if not found or not sum(map(len, found)):
        return _NONE
    low, high = np.percentile(np.concatenate(found), [2.5, 97.5], method="inverted_cdf")  # which bears infinities
    return float(low), float(high)
