"""Metrics of installed packages, measured as the built-in ones are.

Owns: which of them can be used, and what becomes of one that cannot. What a package declares is in `custom_metric`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

from convmodel.errors import PluginError
from convmodel.evaluation.bleu_chrf import BLEU, CHRF
from convmodel.evaluation.custom_metric import ResponseMetric, TurnMetric
from convmodel.evaluation.likelihood_metrics import LIKELIHOOD, RANKED_BY_GAIN, RANKED_BY_TOKEN
from convmodel.evaluation.metric import Definition, Metric, Ratio, Topic
from convmodel.evaluation.response_metrics import LOOPS, RESPONSES
from convmodel.evaluation.verbatim_copies import REFERENCE_COPIES, RESPONSE_COPIES
from convmodel.files.plugins import METRICS, Plugin, find_plugins, warn

Declared: TypeAlias = ResponseMetric | TurnMetric

BUILT_IN: tuple[Definition, ...] = (
    *LIKELIHOOD,
    *RANKED_BY_TOKEN.values(),
    *RANKED_BY_GAIN.values(),
    BLEU,
    CHRF,
    *RESPONSES,
    *RESPONSE_COPIES,
    *REFERENCE_COPIES,
    LOOPS,
)
"""All metrics of convmodel itself, whose names no other metric may have."""

_RESERVED = frozenset(definition.name for definition in BUILT_IN)
_TOPICS = {TurnMetric: Topic.PREDICTION, ResponseMetric: Topic.RESPONSES}


@dataclass(slots=True)
class InstalledMetrics:
    """What was measured with metrics of installed packages.

    Attributes:
        origins: The package of each metric, with its version, by the metric's name.
        notes: What could not be measured, and why.
    """

    metrics: list[Metric] = field(default_factory=list)
    origins: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def has_installed(kind: type[Declared]) -> bool:
    """Returns whether an installed package has a metric of a kind."""
    return any(isinstance(declared, kind) for _, declared in _usable()[0])


def unusable_metrics() -> list[str]:
    """Returns why metrics of installed packages cannot be used, and logs it, so that it is known before measuring."""
    return _usable()[1]


def measure_installed(kind: type[Declared], conversations: Sequence[Sequence[Any]]) -> InstalledMetrics:
    """Measures all metrics of a kind on the turns, or the exchanges, of each conversation.

    One that fails is left out with a warning and a note.
    """
    measured = InstalledMetrics()
    for plugin, declared in _usable()[0]:
        if not isinstance(declared, kind):
            continue
        try:
            measured.metrics.append(_measure(plugin, declared, conversations))
            measured.origins[plugin.name] = plugin.origin
        except PluginError as error:
            warn(plugin, error)
            measured.notes.append(str(error))
    return measured


def _usable() -> tuple[list[tuple[Plugin, Declared]], list[str]]:
    """Returns the metrics that can be used, and why others cannot."""
    usable: list[tuple[Plugin, Declared]] = []
    notes: list[str] = []
    for plugin in find_plugins(METRICS, _RESERVED):
        try:
            declared = plugin.load()
            if not isinstance(declared, ResponseMetric | TurnMetric):
                where = plugin.entry_point.value
                raise plugin.error(
                    f"is a {type(declared).__name__} ({where}), instead of a ResponseMetric or a TurnMetric"
                )
        except PluginError as error:
            warn(plugin, error)
            notes.append(str(error))
        else:
            usable.append((plugin, declared))
    return usable, notes


def _measure(plugin: Plugin, declared: Declared, conversations: Sequence[Sequence[Any]]) -> Metric:
    ratio: Ratio[Any] = Ratio(
        name=plugin.name,
        label=declared.label,
        topic=_TOPICS[type(declared)],
        explanation=declared.explanation,
        better=declared.better,
        percent=declared.percent,
        per_token=isinstance(declared, TurnMetric) and declared.per_token,
        above=_finite(declared.numerator),
        below=_finite(declared.denominator or _one),
    )
    try:
        return ratio.measure(conversations)
    except Exception as error:
        raise plugin.failed("failed", error) from error


def _one(item: Any) -> float:
    return 1.0


def _finite(part: Callable[[Any], float]) -> Callable[[Any], float]:
    """Returns the function with a check of its values: one that is not a number would spoil all sums."""

    def checked(item: Any) -> float:
        value = float(part(item))
        if not math.isfinite(value):
            raise ValueError(f"{value} is not a finite number")
        return value

    return checked
