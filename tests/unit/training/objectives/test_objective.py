"""The supervised objective: divisors of a whole step."""

import math

import pytest
import torch

from convmodel.layout.sequence import IGNORED
from convmodel.training.objectives.objective import SupervisedObjective

LABELS = torch.tensor([[3, 4, IGNORED], [IGNORED, 5, 6]])
WEIGHTS = torch.tensor([[9.0, 0.5, 0.0], [9.0, 2.0, 1.0]])


def test_targets_count_one_or_what_they_weigh_and_first_tokens_never() -> None:
    objective = SupervisedObjective()

    assert objective.totals([{"labels": LABELS}]).tolist() == [3.0]
    assert objective.totals([{"labels": LABELS}, {"labels": LABELS, "weights": WEIGHTS}]).tolist() == [6.5]


def test_the_model_gets_the_weight_of_the_step() -> None:
    given: dict[str, object] = {}

    class Model(torch.nn.Module):
        def forward(self, **inputs: object) -> torch.Tensor:
            given.update(inputs)
            return torch.zeros(())

    SupervisedObjective().loss(Model(), {"labels": LABELS}, torch.tensor([6.5], dtype=torch.float64))

    assert given["total_weight"] == 6.5


@pytest.mark.parametrize(("loss", "perplexity"), [(1.0, math.e), (1e9, math.exp(700))])
def test_the_perplexity_is_reported_and_stays_finite(loss: float, perplexity: float) -> None:
    assert SupervisedObjective().metrics(loss, lambda sums: sums) == {"perplexity": pytest.approx(perplexity)}
