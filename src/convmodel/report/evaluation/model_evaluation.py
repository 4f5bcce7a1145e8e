"""The settings of an evaluation, and what it measured of one model.

Owns: their fields and their form in JSON. Measures nothing.
"""

from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any

from convmodel.data.reading.problems import OnError
from convmodel.evaluation.likelihood import EvaluationResult
from convmodel.evaluation.metric import Metric
from convmodel.evaluation.response_metrics import Exchange
from convmodel.evaluation.turn_statistics import Array, Calibration
from convmodel.evaluation.verbatim_copies import Copy
from convmodel.hf_model.log_probs import BATCH_SIZE
from convmodel.layout.sequence import LossOn


@dataclass(frozen=True, slots=True)
class Settings:
    """What is measured, and how; the same settings, data and weights give the same result.

    Attributes:
        batch_size: Windows at a time; it changes speed, not the result.
        max_length: The longest window; by default as in training.
        loss_on: Whose turns count; by default as in training.
        distractors: Among how many turns of other conversations a next turn is ranked; 0 skips this.
        responses: To how many contexts responses are generated; 0 skips this.
        self_chats: How many conversations a model has with itself; 0 skips this.
        generation: Options of `generate`.
        seed: Seeds resamples, distractors, the choice of contexts, and sampling.
        on_error: Whether a conversation that cannot be used is an error, or left out and counted.
    """

    batch_size: int = BATCH_SIZE
    max_length: int | None = None
    loss_on: LossOn | None = None
    distractors: int = 0
    responses: int = 0
    self_chats: int = 0
    generation: dict[str, Any] = field(default_factory=dict)
    seed: int = 0
    on_error: OnError = "fail"

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as JSON has them."""
        return asdict(self)


@dataclass(frozen=True, slots=True, eq=False)
class ModelEvaluation:
    """What was measured of one model, or of a baseline.

    Attributes:
        name: The name that the user gave.
        identity: Its weights' hash, size, vocabulary; empty for a baseline that is not a model.
        metrics: All metrics, each with one row per conversation.
        likelihood: Its likelihood of all conversations.
        speakers: Metrics of each speaker.
        depths: Metrics of the first turns, the second ones, ...
        calibration: How sure it is of ends.
        losses: For each conversation nats and tokens.
        requested: The numbers, from 1, of the conversations whose last turn it was to generate.
        exchanges: Its responses; without those to contexts that do not fit, which `on_error` may leave out.
        copies: For each exchange what its response has from the training data; empty without training data.
        signatures: Of BLEU and chrF.
        speed: Tokens per second, read and generated.
    """

    name: str
    identity: dict[str, Any] = field(default_factory=dict)
    metrics: list[Metric] = field(default_factory=list)
    likelihood: EvaluationResult | None = None
    speakers: dict[str, list[Metric]] = field(default_factory=dict)
    depths: dict[str, list[Metric]] = field(default_factory=dict)
    calibration: Calibration | None = None
    losses: Array | None = None
    requested: list[int] = field(default_factory=list)
    exchanges: list[Exchange] = field(default_factory=list)
    copies: list[Copy | None] = field(default_factory=list)
    signatures: dict[str, str] = field(default_factory=dict)
    speed: dict[str, float] = field(default_factory=dict)

    def to_dict(self, seed: int) -> dict[str, Any]:
        """Returns it as JSON has it, with intervals.

        Args:
            seed: Seeds the resamples.
        """

        def estimates(metrics: Iterable[Metric]) -> dict[str, Any]:
            return {metric.name: metric.estimate(seed).to_dict() for metric in metrics}

        return {
            "name": self.name,
            "identity": self.identity,
            "metrics": estimates(self.metrics),
            "speakers": {name: estimates(metrics) for name, metrics in self.speakers.items()},
            "turns": {name: estimates(metrics) for name, metrics in self.depths.items()},
            "calibration": None if self.calibration is None else self.calibration.to_dict(),
            "signatures": self.signatures,
            "tokens_per_second": self.speed,
            "contexts_left_out": len(self.requested) - len(self.exchanges),
            "exchanges": [exchange.to_dict() for exchange in self.exchanges],
            "copies": [asdict(copy) for copy in self.copies if copy is not None],
        }
