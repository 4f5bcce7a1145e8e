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
        validation: The best validation; None without validation data.
        best_step: The step after which the kept model was validated; the last one without validation.
        stopped_early: Whether `early_stopping_patience` ended the run, or the guard of a run on judgements.
        seconds: How long the run took.
        tokens_per_second: Training tokens per second, with context and without padding; validation time is included.
        windows: Training windows.
        left_out: The part of the training data that could not be used, in a sentence; empty if all was.
        output_dir: The folder in which the model was saved; None if it was not.
        history: The logged metrics, in order: losses, learning rates, validations.
        guard: Why the guard of a run on judgements stopped it, in a sentence; empty if it did not.
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

    def to_dict(self) -> dict[str, Any]:
        """Returns the fields as a dictionary of JSON values."""
        validation = None if self.validation is None else self.validation.to_dict()
        return {**asdict(self), "validation": validation}
