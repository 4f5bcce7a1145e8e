"""Text of evaluation reports.

Owns: how a value and its interval are written, which metrics are in which section, and the sentences at the top of a
report.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from convmodel.evaluation.metric import Definition, Estimate, Topic
from convmodel.layout.token_view import visible_line
from convmodel.report.evaluation.model_evaluation import ModelEvaluation


@dataclass(frozen=True, slots=True)
class Cell:
    """A value and its interval as text, each empty where there is none."""

    value: str = ""
    interval: str = ""

    @classmethod
    def of(cls, estimate: Estimate, percent: bool) -> "Cell":
        """Writes an estimate.

        Example:
            >>> Cell.of(Estimate(0.25, 0.2, 0.31, 100), percent=True).text
            '25.0 % (20.0 to 31.0)'
            >>> Cell.of(Estimate(12.345, math.nan, math.nan, 1), percent=False).text
            '12.35'
        """
        value = with_unit(estimate.value, percent)
        if math.isnan(estimate.low):
            return cls(value)
        return cls(value, f"{format_value(estimate.low, percent)} to {format_value(estimate.high, percent)}")

    @property
    def text(self) -> str:
        """The value, followed by the interval in parentheses."""
        return f"{self.value} ({self.interval})" if self.interval else self.value


def format_value(value: float, percent: bool) -> str:
    """Writes a value with as many digits as are meaningful; shares in percent, without the sign.

    Example:
        >>> [format_value(*value) for value in ((1234.56, False), (0.12345, False), (0.12345, True), (math.nan, False))]
        ['1,234.6', '0.123', '12.3', 'none']
    """
    if math.isnan(value):
        return "none"
    if percent:
        return f"{100 * value:.1f}"
    size = abs(value)
    return f"{value:,.1f}" if size >= 100 else f"{value:.2f}" if size >= 10 else f"{value:.3f}"


def with_unit(value: float, percent: bool) -> str:
    """Writes a value as `format_value` does, and a share with its sign.

    Example:
        >>> with_unit(0.12345, True), with_unit(math.nan, True)
        ('12.3 %', 'none')
    """
    return format_value(value, percent) + " %" * (percent and not math.isnan(value))


@dataclass(frozen=True, slots=True)
class Section:
    """The metrics of one topic, with a cell for each model that has any of them."""

    topic: Topic
    names: list[str]
    rows: list[tuple[Definition, list[Cell]]]


def sections(models: Iterable[ModelEvaluation], seed: int) -> list[Section]:
    """Writes all metrics that have an explanation; topics without any are left out."""
    result = []
    by_model = [(model.name, {metric.name: metric for metric in model.metrics}) for model in models]
    for topic in Topic:
        definitions = {
            metric.name: metric.definition
            for _, metrics in by_model
            for metric in metrics.values()
            if metric.definition.topic == topic and metric.definition.explanation
        }
        columns = [(name, metrics) for name, metrics in by_model if metrics.keys() & definitions.keys()]
        rows = [
            (
                definition,
                [
                    Cell.of(metrics[name].estimate(seed), definition.percent) if name in metrics else Cell()
                    for _, metrics in columns
                ],
            )
            for name, definition in definitions.items()
        ]
        if rows:
            result.append(Section(topic, [name for name, _ in columns], rows))
    return result


def title(models: Sequence[ModelEvaluation]) -> str:
    """Returns the heading of a report on some models."""
    first, *others = [visible_line(model.name) for model in models]
    return f"{first} compared with {', '.join(others)}" if others else f"Evaluation of {first}"


def summaries(models: Iterable[ModelEvaluation]) -> list[str]:
    """Returns a paragraph per model, which begins with its name where there are several; notes are at its end."""
    measured = [model for model in models if model.likelihood is not None]
    return [
        (f"{visible_line(model.name)}: " if len(measured) > 1 else "") + " ".join(summary(model)) for model in measured
    ]


def summary(model: ModelEvaluation) -> list[str]:
    """Summarizes an evaluation in a few sentences, for readers who do not know the metrics."""
    values = {metric.name: metric.value for metric in model.metrics}
    sentences: list[str] = []
    if "perplexity" in values:
        sentences.append(
            f"The perplexity is {format_value(values['perplexity'], False)}: the next token is as uncertain as a "
            f"uniform choice among that many. The model needs {format_value(values['bits_per_byte'], False)} bits "
            "per byte of text."
        )
    if "hits_at_1" in values:
        sentences.append(f"The true next turn is ranked first in {values['hits_at_1']:.0%} of the conversations.")
    if "runaway" in values:
        sentences.append(
            f"{values['runaway']:.0%} of the responses reached the maximum length, {values['empty']:.0%} are empty, "
            f"and they are {format_value(values['length'], False)} times as long as the references."
        )
    if "copied" in values:
        sentences.append(
            f"{values['copied']:.0%} of the responses are copied from the training data, at least in part; of the "
            f"references {values['references_copied']:.0%}."
        )
    return [*sentences, *(f"{note[:1].upper()}{note[1:]}." for note in model.notes)]
