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
from convmodel.errors import ConfigError
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
        """Returns a sentence: on which metrics the second is better, worse, not significantly different, or unknown.

        Example:
            >>> Comparison("A", "B", []).verdict()
            'B and A have no metric in common.'
        """
        if not self.differences:
            return f"{self.second} and {self.first} have no metric in common."
        labels: dict[str, list[str]] = {"better": [], "worse": [], "none": [], "different": [], "too few": []}
        for difference in self.differences:
            if difference.definition.explanation:
                verdict = "too few" if difference.too_few else difference.verdict
                labels[verdict].append(difference.definition.label)
        parts = [f"{verdict} on: {', '.join(labels[verdict])}" for verdict in ("better", "worse") if labels[verdict]]
        if labels["none"] and (parts or labels["too few"]):
            parts.append(f"no significant difference on: {', '.join(labels['none'])}")
        if labels["too few"]:
            which = f" on: {', '.join(labels['too few'])}" if parts else ""
            parts.append(f"too few conversations to tell{which}")
        return f"{self.second} compared with {self.first}: {'; '.join(parts) or 'no significant difference'}."

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

    def targets(self) -> str:
        """Returns a sentence: what all models were measured on; empty for a single model."""
        measured = [model for model in self.models if model.likelihood is not None]
        if len(measured) < 2 or self.settings.loss_on is None or self.settings.max_length is None:
            return ""
        whose = self.settings.loss_on if isinstance(self.settings.loss_on, str) else ", ".join(self.settings.loss_on)
        left_out = self.data.get("not_alike", 0)
        left_out_part = (
            f"; {left_out:,} conversations whose targets differ between them are left out" if left_out else ""
        )
        return (
            f"All models are measured on the same targets: loss_on={whose}, in windows of at most "
            f"{self.settings.max_length:,} tokens{left_out_part}."
        )

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
    """Compares each metric that both have; metrics per token only if both models have the same vocabulary.

    Raises:
        ConfigError: If they were measured on different targets.
    """
    same_vocabulary = first.identity.get("tokenizer") == second.identity.get("tokenizer")
    _require_same_targets(first, second)
    second_metrics = {metric.name: metric for metric in second.metrics}
    return [
        compare_metrics(metric, second_metrics[metric.name], seed)
        for metric in first.metrics
        if metric.name in second_metrics
        and metric.definition.better != "neither"
        and metric.definition.resampled
        and (same_vocabulary or not metric.definition.per_token)
    ]


def _require_same_targets(first: ModelEvaluation, second: ModelEvaluation) -> None:
    """Checks that two models were measured on the same bytes of text and the same ends of turns."""

    def targets(evaluation: ModelEvaluation) -> list[list[float]]:
        of_targets = [metric for metric in evaluation.metrics if metric.name in ("bits_per_byte", "stop_probability")]
        return [metric.rows[:, 1].tolist() for metric in of_targets]

    if first.likelihood and second.likelihood and targets(first) != targets(second):
        raise ConfigError(
            f"{first.name} and {second.name} were not measured on the same targets: give both the same loss_on and "
            "max_length, and conversations that both can use"
        )


def data_fingerprint(conversations: Iterable[Conversation]) -> str:
    """Hashes the turns and their speakers."""
    digest = hashlib.sha256()
    for conversation in conversations:
        digest.update(repr((conversation.turns, conversation.turn_speakers, conversation.pinned)).encode())
    return digest.hexdigest()[:16]


def versions() -> dict[str, str]:
    """Returns the versions of the packages that compute."""
    return {name: version(name) for name in ("convmodel", "torch", "transformers", "tokenizers")}
