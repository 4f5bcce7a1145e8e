"""Metrics that other packages declare.

Owns: the two kinds of them, of turns and of responses. Knows no plugin, and measures nothing.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, get_args

from convmodel.errors import ConfigError

if TYPE_CHECKING:
    from convmodel.evaluation.response_metrics import Exchange
    from convmodel.evaluation.turn_statistics import TurnStatistics

Better: TypeAlias = Literal["lower", "higher", "neither"]
"""Which values of a metric are better; with `neither`, models are not compared by it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ResponseMetric:
    """A metric of generated responses: a sum over all responses divided by another one.

    An entry point of the group `convmodel.metrics` names it; the entry point's name is the metric's name.

    Attributes:
        label: Its name in reports, with the unit if there is one.
        explanation: What it measures, for readers who do not know it.
        numerator: What one response adds to the first sum.
        denominator: What it adds to the second; by default 1, so that the metric is the mean of the numerator.
        better: Which values are better; with `neither`, models are not compared by it.
        percent: Whether values are fractions, to be shown in percent.

    Example:
        >>> from convmodel import ResponseMetric
        >>> questions = ResponseMetric(
        ...     label="responses that ask",
        ...     explanation="responses with a question mark",
        ...     percent=True,
        ...     numerator=lambda exchange: "?" in exchange.response,
        ... )
    """

    label: str
    explanation: str
    numerator: Callable[["Exchange"], float]
    denominator: Callable[["Exchange"], float] | None = None
    better: Better = "neither"
    percent: bool = False

    def __post_init__(self) -> None:
        _check(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class TurnMetric:
    """A metric of how well a model predicts turns: a sum over all supervised turns divided by another one.

    The fields are those of a `ResponseMetric`, and one more.

    Attributes:
        per_token: Whether values depend on the vocabulary, so that only models with the same one are compared.

    Example:
        >>> from convmodel import TurnMetric
        >>> surprise = TurnMetric(
        ...     label="nats per turn",
        ...     explanation="how surprising a turn is; lower is better",
        ...     better="lower",
        ...     numerator=lambda turn: turn.nats,
        ... )
    """

    label: str
    explanation: str
    numerator: Callable[["TurnStatistics"], float]
    denominator: Callable[["TurnStatistics"], float] | None = None
    better: Better = "neither"
    percent: bool = False
    per_token: bool = False

    def __post_init__(self) -> None:
        _check(self)


def _check(metric: Any) -> None:
    for name in ("label", "explanation"):
        text = getattr(metric, name)
        if not isinstance(text, str) or not text.strip():
            raise ConfigError(f"the {name} of a metric is {text!r}: write a few words for readers of reports")
    if metric.better not in get_args(Better):
        raise ConfigError(f"better is {metric.better!r}: it must be {', '.join(get_args(Better))}")
    if not callable(metric.numerator) or not (metric.denominator is None or callable(metric.denominator)):
        raise ConfigError("the numerator and the denominator of a metric must be functions of one argument")
