"""The formulas, at values that the papers give by themselves, and far from them."""

import math

import pytest
import torch

from convmodel.training.objectives.formulas import dpo_loss, kto_loss, orpo_loss


def test_dpo_prefers_what_has_become_likelier() -> None:
    gained, lost = torch.tensor([5.0, -5.0, 0.0]), torch.tensor([-5.0, 5.0, 0.0])

    assert dpo_loss(gained, lost, beta=0.1).tolist() == pytest.approx(
        [math.log(1 + math.exp(-1)), math.log(1 + math.exp(1)), math.log(2)]
    )


def test_smoothing_lets_a_share_of_the_judgements_be_the_wrong_way_round() -> None:
    gained, lost = torch.tensor([3.0]), torch.tensor([-1.0])
    one, other = dpo_loss(gained, lost, beta=0.5), dpo_loss(lost, gained, beta=0.5)

    assert dpo_loss(gained, lost, 0.5, 0.25).item() == pytest.approx(0.75 * one.item() + 0.25 * other.item())


def test_the_value_of_a_response_in_kto_is_counted_from_how_far_the_model_moved() -> None:
    ratios, liked = torch.tensor([2.0, 2.0]), torch.tensor([True, False])
    nowhere, far = (kto_loss(ratios, liked, torch.tensor(kl), beta=1.0) for kl in (0.0, 2.0))

    assert nowhere.tolist() == pytest.approx([1 / (1 + math.exp(2)), 1 / (1 + math.exp(-2))])
    assert far.tolist() == pytest.approx([0.5, 0.5])


def test_orpo_compares_odds() -> None:
    p, q = 0.5, 0.2
    chosen, rejected = torch.tensor([math.log(p)]), torch.tensor([math.log(q)])
    ratio = (p / (1 - p)) / (q / (1 - q))

    assert orpo_loss(chosen, rejected).item() == pytest.approx(-math.log(ratio / (1 + ratio)), rel=1e-5)


@pytest.mark.parametrize("log_prob", [0.0, -1e-9, -200.0])
def test_extreme_probabilities_have_finite_losses_and_gradients(log_prob: float) -> None:
    chosen, rejected = torch.tensor([log_prob], requires_grad=True), torch.tensor([-1.0])
    for loss in (orpo_loss(chosen, rejected), dpo_loss(1e4 * chosen, rejected, 1.0)):
        loss.sum().backward()  # type: ignore[no-untyped-call]
        assert loss.isfinite().all()
        assert chosen.grad is not None
        assert chosen.grad.isfinite().all()
