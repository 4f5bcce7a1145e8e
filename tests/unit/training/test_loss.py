"""The loss: a sum over supervised tokens, divided by their count over the whole update."""

import math

import pytest
import torch

from convmodel.layout import IGNORED
from convmodel.training.loss import supervised_loss

VOCABULARY = 13


def batch(*lengths: int, seq: int = 9) -> tuple[torch.Tensor, torch.Tensor]:
    """Random logits, and labels whose supervised positions follow an unsupervised beginning of each length."""
    generator = torch.Generator().manual_seed(len(lengths))
    logits = torch.randn(len(lengths), seq, VOCABULARY, generator=generator)
    labels = torch.randint(0, VOCABULARY, (len(lengths), seq), generator=generator)
    for row, length in zip(labels, lengths, strict=True):
        row[:length] = IGNORED
    return logits, labels


def summed_by_hand(logits: torch.Tensor, labels: torch.Tensor) -> float:
    """-ln p of each supervised token, one by one, in float64."""
    total = 0.0
    for row, targets in zip(logits.double(), labels.tolist(), strict=True):
        for position, target in enumerate(targets[1:]):
            if target != IGNORED:
                total += (row[position].logsumexp(0) - row[position, target]).item()
    return total


def test_the_loss_is_the_sum_over_supervised_tokens_by_their_count() -> None:
    logits, labels = batch(1, 4, 7)
    count = 8 + 5 + 2

    loss = supervised_loss(logits, labels, count)

    assert loss.shape == ()
    assert loss.item() == pytest.approx(summed_by_hand(logits, labels) / count, rel=1e-6)


def test_the_divisor_is_the_whole_updates_and_may_be_a_tensor() -> None:
    logits, labels = batch(1, 4)
    reference = summed_by_hand(logits, labels) / 40

    assert supervised_loss(logits, labels, 40).item() == pytest.approx(reference, rel=1e-6)
    assert supervised_loss(logits, labels, torch.tensor(40)).item() == pytest.approx(reference, rel=1e-6)


def test_parts_of_an_update_add_up_to_the_whole_in_loss_and_gradient() -> None:
    logits, labels = batch(1, 8, 3)
    whole, parts = logits.clone().requires_grad_(), logits.clone().requires_grad_()

    supervised_loss(whole, labels, 15).backward()
    for row in range(3):
        supervised_loss(parts[row : row + 1], labels[row : row + 1], 15).backward()

    torch.testing.assert_close(parts.grad, whole.grad)
    assert whole.grad is not None
    assert whole.grad.abs().sum() > 0


def test_the_gradient_is_the_reference_one_in_float64() -> None:
    logits, labels = batch(1, 6)
    logits = logits.double().requires_grad_()

    supervised_loss(logits, labels, 11).backward()

    probabilities = logits.detach().softmax(-1)
    expected = torch.zeros_like(probabilities)
    for row, targets in enumerate(labels.tolist()):
        for position, target in enumerate(targets[1:]):
            if target != IGNORED:
                expected[row, position] = probabilities[row, position] / 11
                expected[row, position, target] -= 1 / 11
    torch.testing.assert_close(logits.grad, expected, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("count", [0, 5])
def test_a_batch_without_targets_gives_zero_and_keeps_the_graph(count: int) -> None:
    logits, labels = batch(9, 9)
    logits.requires_grad_()

    loss = supervised_loss(logits, labels, count)
    loss.backward()

    assert loss.item() == 0.0
    assert logits.grad is not None
    assert logits.grad.abs().sum() == 0


def test_the_label_of_the_first_position_is_never_a_target() -> None:
    logits, labels = batch(1)
    labelled = labels.clone()
    labelled[0, 0] = 3

    assert supervised_loss(logits, labelled, 8).item() == supervised_loss(logits, labels, 8).item()


def test_half_precision_logits_are_summed_in_float32() -> None:
    logits = torch.zeros(64, 65, 4, dtype=torch.bfloat16)
    labels = torch.ones(64, 65, dtype=torch.int64)

    loss = supervised_loss(logits, labels, 64 * 64)

    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(math.log(4), rel=1e-5)
