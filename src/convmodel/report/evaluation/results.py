"""The whole evaluation: models, baselines, and how they differ.

Owns: which are compared with which, the sentence about a comparison, and the form of all of it in JSON.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from convmodel.conversation import Conversation
from convmodel.evaluation.metric import Difference, compare_metrics
from convmodel.evaluation.retrieval_baseline import NearestContext
from convmodel.report.evaluation.evaluate import with_responses
from convmodel.report.evaluation.model_evaluation import ModelEvaluation, Settings

NEAREST = "the nearest training context"
"""The name of the baseline that responds with what followed the most similar training context."""

SHOWN_RESPONSES = 20
"""How many responses a report shows."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """The difference of a second model from a first in each metric that both have."""

    first: str
    second: str
    differences: list[Difference]

    def verdict(self) -> str:
        """Returns a sentence: on which metrics the second is better, worse, or not significantly different.

        Example:
            >>> Comparison("A", "B", []).verdict()
            'B and A have no metric in common.'
        """
        if not self.differences:
            return f"{self.second} and {self.first} have no metric in common."
        labels: dict[str, list[str]] = {"better": [], "worse": [], "none": []}
        for difference in self.differences:
            if difference.definition.explanation and difference.verdict in labels:
                labels[difference.verdict].append(difference.definition.label)
        parts = [f"{verdict} on: {', '.join(labels[verdict])}" for verdict in ("better", "worse") if labels[verdict]]
        if not parts:
            parts = ["no significant difference"]
        elif labels["none"]:
            parts.append(f"no difference on: {', '.join(labels['none'])}")
        return f"{self.second} compared with {self.first}: {'; '.join(parts)}."

    def to_dict(self) -> dict[str, Any]:
        """Returns it as JSON has it."""
        return {
            "first": self.first,
            "second": self.second,
            "verdict": self.verdict(),
            "differences": {difference.definition.name: difference.to_dict() for difference in self.differences},
        }


@dataclass(frozen=True, slots=True, eq=False)
class EvaluationReport:
    """Everything that was measured of some models on some conversations."""

    models: list[ModelEvaluation]  # and then the baselines
    comparisons: list[Comparison]
    data: dict[str, Any]  # its name, size and hash
    settings: Settings
    conversations: Sequence[Conversation] = field(repr=False, default=())
    created_at: str = ""  # in UTC
    own: int = 1  # how many of the first models are not baselines

    def to_dict(self) -> dict[str, Any]:
        """Returns all of it as JSON has it."""
        return {
            "created_at": self.created_at,
            "versions": versions(),
            "data": self.data,
            "settings": asdict(self.settings),
            "models": [model.to_dict(self.settings.seed) for model in self.models],
            "comparisons": [comparison.to_dict() for comparison in self.comparisons],
        }

    def facts(self) -> list[tuple[str, str]]:
        """Returns what one needs to repeat the evaluation: data, models, settings and versions."""
        facts: dict[str, Any] = {"created at": self.created_at}
        facts |= {f"data: {name}": value for name, value in self.data.items()}
        for model in self.models:
            facts |= {f"{model.name}: {name}": value for name, value in (model.identity | model.signatures).items()}
        facts |= {f"setting: {name}": value for name, value in asdict(self.settings).items()} | versions()
        return [
            (name, value if isinstance(value, str) else json.dumps(value, default=str)) for name, value in facts.items()
        ]

    def responses(self) -> tuple[list[str], list[tuple[Conversation, list[str]]]]:
        """Returns the names of the models that responded, and for some contexts the reference and their responses."""
        models = [model for model in self.models if model.exchanges]
        by_number = [{exchange.number: exchange.response for exchange in model.exchanges} for model in models]
        rows = [
            (
                exchange.context,
                [exchange.reference, *(texts.get(exchange.number, "") or "(nothing)" for texts in by_number)],
            )
            for exchange in (models[0].exchanges[:SHOWN_RESPONSES] if models else ())
        ]
        return [model.name for model in models], rows


def make_report(
    models: Sequence[ModelEvaluation],
    conversations: Sequence[Conversation],
    settings: Settings,
    *,
    data: dict[str, Any],
    base: ModelEvaluation | None = None,
    nearest: ModelEvaluation | None = None,
) -> EvaluationReport:
    """Compares models with the first of them, and all with the baselines: the base model and `nearest_context`."""
    baselines = [baseline for baseline in (base, nearest) if baseline is not None]
    pairs = [(models[0], other) for other in models[1:]]
    pairs += [(baseline, model) for baseline in baselines for model in models]
    comparisons = [Comparison(a.name, b.name, compare_models(a, b, settings.seed)) for a, b in pairs]
    now = datetime.now(UTC).isoformat(timespec="seconds")
    data = data | {"conversations": len(conversations), "sha256": data_fingerprint(conversations)}
    return EvaluationReport([*models, *baselines], comparisons, data, settings, conversations, now, len(models))


def nearest_context(evaluation: ModelEvaluation, training: Iterable[Conversation]) -> ModelEvaluation:
    """Evaluates the retrieval baseline on the contexts of a model's exchanges."""
    nearest = NearestContext(training)
    exchanges = [
        replace(exchange, response=nearest.respond(exchange.context), finish_reason="stop", tokens=0)
        for exchange in evaluation.exchanges
    ]
    return with_responses(ModelEvaluation(NEAREST, requested=evaluation.requested), exchanges, training)


def compare_models(first: ModelEvaluation, second: ModelEvaluation, seed: int) -> list[Difference]:
    """Compares each metric that both have; metrics per token only if both models have the same vocabulary."""
    same_vocabulary = first.identity.get("tokenizer") == second.identity.get("tokenizer")
    second_metrics = {metric.name: metric for metric in second.metrics}
    return [
        compare_metrics(metric, second_metrics[metric.name], seed)
        for metric in first.metrics
        if metric.name in second_metrics
        and metric.definition.better != "neither"
        and metric.definition.resampled
        and (same_vocabulary or not metric.definition.per_token)
    ]


def data_fingerprint(conversations: Iterable[Conversation]) -> str:
    """Hashes the turns and their speakers."""
    digest = hashlib.sha256()
    for conversation in conversations:
        digest.update(repr((conversation.turns, conversation.turn_speakers, conversation.pinned)).encode())
    return digest.hexdigest()[:16]


def versions() -> dict[str, str]:
    """Returns the versions of the packages that compute."""
    return {name: version(name) for name in ("convmodel", "torch", "transformers", "tokenizers")}
