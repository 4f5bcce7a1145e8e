"""The logistic regression: its optimum, in both of its spaces, and the area under the ROC curve."""

import pytest
import torch

from convmodel.hf_model.logistic_regression import _PENALTY, auc, fit_logistic


def examples(count: int, width: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    chance = torch.Generator().manual_seed(count)
    features = torch.randn(count, width, generator=chance, dtype=torch.float64) * 3 + 1
    liked = (features[:, 0] + torch.randn(count, generator=chance, dtype=torch.float64) > 2).double()
    return features, liked, torch.rand(count, generator=chance, dtype=torch.float64) + 0.5


@pytest.mark.parametrize(("count", "width"), [(60, 8), (20, 50)], ids=["more examples", "more features"])
def test_it_is_the_minimum_of_its_loss(count: int, width: int) -> None:
    features, liked, weight = examples(count, width)
    found, bias, _ = fit_logistic(features, liked, weight, range(count))
    scale = features.std(0) * width**0.5

    direction = (found * scale).requires_grad_()
    offset = torch.tensor(bias, dtype=torch.float64, requires_grad=True)
    logits = (features / scale) @ direction + offset
    half = count / 2
    balance = torch.where(liked > 0, half / (weight * liked).sum(), half / (weight * (1 - liked)).sum())
    losses = torch.nn.functional.binary_cross_entropy_with_logits(logits, liked, reduction="none")
    loss = (weight * balance * losses).sum() + _PENALTY / 2 * direction.square().sum()
    loss.backward()

    assert direction.grad is not None
    assert offset.grad is not None
    assert direction.grad.abs().max() < 1e-4
    assert abs(offset.grad) < 1e-4


def test_a_constant_feature_gets_no_weight() -> None:
    features, liked, weight = examples(40, 3)
    features[:, 1] = 7.0
    found, _, _ = fit_logistic(features, liked, weight, range(40))
    assert found[1] == 0


def test_examples_of_one_group_are_predicted_from_others() -> None:
    """A feature that only says which group it is predicts nothing of other groups."""
    liked = (torch.arange(20) % 2).repeat_interleave(2).double()
    features = torch.eye(20, dtype=torch.float64).repeat_interleave(2, dim=0)
    groups = {"one": [0] * 40, "pairs": [each // 2 for each in range(40)], "none": range(40)}
    found = {
        name: fit_logistic(features, liked, torch.ones(40, dtype=torch.float64), of)[2] for name, of in groups.items()
    }

    assert found["one"] is None
    assert found["pairs"] is not None
    assert found["pairs"] < 0.6
    assert found["none"] is not None
    assert found["none"] > 0.9


def test_the_order_of_the_examples_does_not_matter() -> None:
    features, liked, weight = examples(40, 6)
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    found, bias, area = fit_logistic(features, liked, weight, range(40))
    other, other_bias, other_area = fit_logistic(features[order], liked[order], weight[order], order.tolist())

    torch.testing.assert_close(other, found, atol=1e-5, rtol=1e-5)
    assert other_bias == pytest.approx(bias, abs=1e-4)
    assert other_area == area


def test_the_area_counts_pairs_and_half_of_ties() -> None:
    assert auc(torch.tensor([3.0, 1.0]), torch.tensor([1.0, 0.0])) == (1 + 1 + 0.5 + 1) / 4
