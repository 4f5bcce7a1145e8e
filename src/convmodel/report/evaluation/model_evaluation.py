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
from convmodel.evaluation.turn_statistics import CALIBRATION, Array
from convmodel.evaluation.verbatim_copies import Copy
from convmodel.hf_model.log_probs import BATCH_SIZE
from convmodel.layout.sequence import LossOn


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of an evaluation; the same settings, data and weights give the same result.

    `max_length` and `loss_on` are by default those of training. A count of 0 skips its part.
    """

    batch_size: int = BATCH_SIZE  # windows at a time; it changes speed, not the result
    max_length: int | None = None  # the longest window
    loss_on: LossOn | None = None  # whose turns count
    distractors: int = 0  # among how many turns of other conversations a next turn is ranked
    responses: int = 0  # to how many contexts responses are generated
    self_chats: int = 0  # how many conversations a model has with itself
    generation: dict[str, Any] = field(default_factory=dict)  # options of `generate`
    seed: int = 0  # of resamples, distractors, the choice of contexts, and sampling
    on_error: OnError = "fail"  # whether a conversation that cannot be used is an error, or left out and counted


@dataclass(frozen=True, slots=True, eq=False)
class ModelEvaluation:
    """The evaluation of one model, or of a baseline.

    Exchanges lack contexts that do not fit, which `on_error` may leave out. Each has an entry in `copies`, which is
    empty without training data.
    """

    name: str  # as the user wrote it
    identity: dict[str, Any] = field(default_factory=dict)  # empty for a baseline that is not a model
    metrics: list[Metric] = field(default_factory=list)  # each with one row per conversation
    likelihood: EvaluationResult | None = None
    speakers: dict[str, list[Metric]] = field(default_factory=dict)
    depths: dict[str, list[Metric]] = field(default_factory=dict)  # of the first turns, the second ones, ...
    calibration: Array | None = None  # see `turn_statistics.CALIBRATION`
    losses: Array | None = None  # nats and tokens, of shape (conversations, 2)
    requested: list[int] = field(default_factory=list)  # conversations, from 1, whose last turn it was to generate
    exchanges: list[Exchange] = field(default_factory=list)
    copies: list[Copy | None] = field(default_factory=list)
    signatures: dict[str, str] = field(default_factory=dict)  # of BLEU and chrF, and packages of installed metrics
    notes: list[str] = field(default_factory=list)  # what could not be measured, and why
    speed: dict[str, float] = field(default_factory=dict)  # tokens per second, `read` and `generated`

    def to_dict(self, seed: int) -> dict[str, Any]:
        """Returns it as JSON has it, with intervals; the seed is that of the resamples."""

        def estimates(metrics: Iterable[Metric]) -> dict[str, Any]:
            return {metric.name: metric.estimate(seed).to_dict() for metric in metrics}

        return {
            "name": self.name,
            "identity": self.identity,
            "metrics": estimates(self.metrics),
            "speakers": {name: estimates(metrics) for name, metrics in self.speakers.items()},
            "turns": {name: estimates(metrics) for name, metrics in self.depths.items()},
            "calibration": None
            if self.calibration is None
            else dict(zip(CALIBRATION, self.calibration.tolist(), strict=True)),
            "signatures": self.signatures,
            "notes": self.notes,
            "tokens_per_second": self.speed,
            "contexts_left_out": len(self.requested) - len(self.exchanges),
            "exchanges": [asdict(exchange) | {"context": list(exchange.context.turns)} for exchange in self.exchanges],
            "copies": [asdict(copy) for copy in self.copies if copy is not None],
        }
