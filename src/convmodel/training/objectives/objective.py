"""What a training step minimises.

Owns: what `FitTrainer` needs of an objective, and the supervised one. Those that learn from judgements are in
`preference.py`.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch

from convmodel.layout.sequence import IGNORED

_LARGEST_EXPONENT = 700.0

Reduce = Callable[[torch.Tensor], torch.Tensor]
"""Sums a tensor over all processes."""


class Objective(Protocol):
    """A loss that is a sum over a whole step, divided by what is counted over that step.

    Attributes:
        sums: What `metrics` is computed from, of this process since the last report; None if there is nothing.
    """

    sums: torch.Tensor | None

    def begin(self) -> None:
        """Prepares for the run; the model has the weights that it begins with."""

    def totals(self, batches: Sequence[dict[str, Any]]) -> torch.Tensor:
        """Counts what this process's batches of a step contribute to the divisors, in float64."""

    def loss(self, model: torch.nn.Module, inputs: dict[str, Any], totals: torch.Tensor) -> torch.Tensor:
        """Computes a batch's part of the step's loss; `totals` are those of the step, over all processes."""

    def metrics(self, loss: float, reduce: Reduce) -> dict[str, float]:
        """Returns the metrics since the last report, whose mean loss is given; all processes must call it."""


class SupervisedObjective:
    """The mean loss per supervised token, each with its weight."""

    sums: torch.Tensor | None = None

    def begin(self) -> None:
        """Does nothing."""

    def totals(self, batches: Sequence[dict[str, Any]]) -> torch.Tensor:
        """Sums the weights of the targets."""
        total = torch.zeros(1, dtype=torch.float64)
        for batch in batches:
            weights = batch.get("weights")
            total += (batch["labels"][:, 1:] != IGNORED).sum() if weights is None else weights[:, 1:].double().sum()
        return total

    def loss(self, model: torch.nn.Module, inputs: dict[str, Any], totals: torch.Tensor) -> torch.Tensor:
        """Computes the weighted sum of -ln p, divided by the weight of the whole step."""
        loss: torch.Tensor = model(**inputs, total_weight=float(totals[0]))
        return loss

    def metrics(self, loss: float, reduce: Reduce) -> dict[str, float]:
        """Returns the perplexity."""
        return {"perplexity": math.exp(min(loss, _LARGEST_EXPONENT))}
