"""The whole evaluation: models, baselines, and how they differ.

Owns: which are compared with which, what is said about a comparison, and its form for machines.
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from importlib.metadata import version
from typing import Any

from convmodel.conversation import Conversation
from convmodel.evaluation.metric import Difference, Estimate, Figure, difference
from convmodel.evaluation.retrieval_baseline import NearestContext
from convmodel.report.evaluation.evaluate import Evaluated, Settings, with_responses

NEAREST = "the nearest training context"
"""What the baseline is called that says what was said in the most similar context."""

_PER_TOKEN = frozenset({"perplexity", "loss", "token_accuracy", "false_stop_rate"})
_SAID_OTHERWISE = frozenset({"loss"})  # by perplexity


@dataclass(frozen=True, slots=True)
class Comparison:
    """How a model differs from another.

    Attributes:
        first: The one that it is compared with.
        second: The model.
        differences: Of each figure that both have.
    """

    first: str
    second: str
    differences: list[Difference]

    def verdict(self) -> str:
        """Says in a sentence on what the second is better, on what worse, and on what no difference shows.

        Example:
            >>> Comparison("A", "B", []).verdict()
            'B and A have no figure in common.'
        """
        if not self.differences:
            return f"{self.second} and {self.first} have no figure in common."
        told = [found for found in self.differences if found.name not in _SAID_OTHERWISE]
        named = {
            verdict: ", ".join(found.label for found in told if found.verdict == verdict)
            for verdict in ("better", "worse", "none")
        }
        parts = [f"{verdict} on: {named[verdict]}" for verdict in ("better", "worse") if named[verdict]]
        against = f"{self.second} against {self.first}: "
        if not parts:
            return f"{against}no difference shows."
        return against + "; ".join(parts) + (f"; no difference on: {named['none']}." if named["none"] else ".")


@dataclass(frozen=True, slots=True, eq=False)
class ReportCard:
    """All that is known of some models on some conversations.

    Attributes:
        models: The models, and then the baselines.
        comparisons: How they differ.
        data: What was measured on: its name, size and hash.
        settings: What was measured.
        conversations: What it was measured on.
        made_at: When, in UTC.
        own: How many of the first models are no baselines.
    """

    models: list[Evaluated]
    comparisons: list[Comparison]
    data: dict[str, Any]
    settings: Settings
    conversations: Sequence[Conversation] = field(repr=False, default=())
    made_at: str = ""
    own: int = 1

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON has it."""
        return {
            "made_at": self.made_at,
            "versions": versions(),
            "data": self.data,
            "settings": self.settings.to_dict(),
            "models": [_described(each, self.settings.seed) for each in self.models],
            "comparisons": [
                {
                    "first": each.first,
                    "second": each.second,
                    "verdict": each.verdict(),
                    "differences": {found.name: found.to_dict() for found in each.differences},
                }
                for each in self.comparisons
            ],
        }


def make_card(
    models: Sequence[Evaluated],
    conversations: Sequence[Conversation],
    settings: Settings,
    *,
    data: dict[str, Any],
    base: Evaluated | None = None,
    nearest: Evaluated | None = None,
) -> ReportCard:
    """Compares models with the first of them, and all with the baselines.

    Args:
        models: At least one.
        conversations: What they were measured on.
        settings: What was measured.
        data: Its name.
        base: What the models were before fine-tuning.
        nearest: What says the nearest training context; see `nearest_context`.
    """
    pairs = [(models[0], other) for other in models[1:]]
    pairs += [(baseline, model) for baseline in (base, nearest) if baseline is not None for model in models]
    baselines = [each for each in (base, nearest) if each is not None]
    comparisons = [Comparison(a.name, b.name, differences(a, b, settings.seed)) for a, b in pairs]
    now = datetime.now(UTC).isoformat(timespec="seconds")
    described = data | {"conversations": len(conversations), "sha256": data_identity(conversations)}
    return ReportCard([*models, *baselines], comparisons, described, settings, conversations, now, len(models))


def nearest_context(evaluated: Evaluated, training: Iterable[Conversation]) -> Evaluated:
    """Makes the baseline of what was said in the nearest training context, for the contexts of a model's exchanges.

    Raises:
        MissingExtraError: If bm25s is not installed.
    """
    nearest = NearestContext(training)
    exchanges = [
        replace(exchange, response=nearest.respond(exchange.context), finish_reason="stop", tokens=0)
        for exchange in evaluated.exchanges
    ]
    return with_responses(Evaluated(NEAREST, asked=evaluated.asked), exchanges, training)


def differences(first: Evaluated, second: Evaluated, seed: int) -> list[Difference]:
    """Compares each figure that both have; figures a token only if both models have the same vocabulary."""
    same = first.identity.get("tokenizer") == second.identity.get("tokenizer")
    theirs = {figure.name: figure for figure in second.figures}
    return [
        difference(figure, theirs[figure.name], seed)
        for figure in first.figures
        if figure.name in theirs and figure.better != "neither" and figure.resampled
        and (same or figure.name not in _PER_TOKEN) and not figure.name.startswith("references_")
    ]  # fmt: skip


def data_identity(conversations: Iterable[Conversation]) -> str:
    """Hashes what is said and by whom."""
    found = hashlib.sha256()
    for conversation in conversations:
        found.update(repr((conversation.turns, conversation.turn_speakers, conversation.pinned)).encode())
    return found.hexdigest()[:16]


def versions() -> dict[str, str]:
    """Names the versions of what computes."""
    return {name: version(name) for name in ("convmodel", "torch", "transformers", "tokenizers")}


def estimates(figures: Iterable[Figure], seed: int) -> dict[str, Estimate]:
    """Computes some figures with their intervals."""
    return {figure.name: figure.estimate(seed) for figure in figures}


def _described(model: Evaluated, seed: int) -> dict[str, Any]:
    def numbers(figures: Iterable[Figure]) -> dict[str, Any]:
        return {name: found.to_dict() for name, found in estimates(figures, seed).items()}

    return {
        "name": model.name,
        "identity": model.identity,
        "figures": numbers(model.figures),
        "speakers": {name: numbers(figures) for name, figures in model.speakers.items()},
        "turns": {name: numbers(figures) for name, figures in model.depths.items()},
        "stops": None if model.stops is None else model.stops.tolist(),
        "signatures": model.signatures,
        "tokens_per_second": model.speed,
        "contexts_left_out": len(model.asked) - len(model.exchanges),
        "exchanges": [each.to_dict() for each in model.exchanges],
        "copies": [
            {"kind": copy.kind, "said": copy.said, "source": copy.source} for copy in model.copies if copy is not None
        ],
    }
