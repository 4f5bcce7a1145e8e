"""What a fine-tuning run returns.

Owns: its fields.
"""

from dataclasses import asdict, dataclass, field
from typing import Any

from convmodel.evaluation.likelihood import EvaluationResult


@dataclass(frozen=True, slots=True)
class FitResult:
    """The result of a fine-tuning run.

    Attributes:
        steps: Steps of the optimizer.
        epochs: Passes over the training data.
        train_loss: Nats per supervised token, averaged over the run's steps.
        before: The validation before the first step; None without validation data.
        validation: The best validation, which is that of the kept model; None without validation data.
        best_step: The step after which the kept model was validated; the last one without validation, and 0 if the
            model was kept as it was.
        stopped_early: Whether the run ended before its last step, since validation did not improve any more, or since
            the guard of a run on judgements stopped it.
        seconds: How long the run took.
        tokens_per_second: Training tokens per second, with context and without padding; validation time is included.
        windows: Training windows.
        left_out: The part of the training data that could not be used, in a sentence; empty if all was.
        output_dir: The folder in which the model was saved; None if it was not.
        history: The logged metrics, in order: losses, learning rates, validations.
        guard: Why the guard of a run on judgements stopped it, in a sentence; empty if it did not.
        verdict: Whether the model is better than before the run, by how much, and what may help, in a sentence.
    """

    steps: int
    epochs: float
    train_loss: float
    validation: EvaluationResult | None
    best_step: int
    stopped_early: bool
    seconds: float
    tokens_per_second: float
    windows: int
    left_out: str
    output_dir: str | None
    history: list[dict[str, float]] = field(default_factory=list, repr=False)
    guard: str = ""
    before: EvaluationResult | None = None
    verdict: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as a dictionary of JSON values."""
        measured = {"before": self.before, "validation": self.validation}
        return asdict(self) | {name: None if one is None else one.to_dict() for name, one in measured.items()}
