"""The loss: a weighted sum over supervised tokens, divided by their weight over the whole update."""

import math
from typing import Any

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from convmodel.hf_model import lm_head as head_module
from convmodel.hf_model.lm_head import Head
from convmodel.layout.sequence import IGNORED
from convmodel.training.step.loss import head_loss, supervised_loss, window_log_probs

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


# Weights


def test_weights_multiply_each_token_and_their_sum_divides() -> None:
    logits, labels = batch(1, 4)
    weights = torch.rand(2, 9, generator=torch.Generator().manual_seed(3))
    weights[labels == IGNORED] = 0
    expected = sum(
        weight * (row[position].logsumexp(0) - row[position, target]).item()
        for row, targets, own in zip(logits.double(), labels.tolist(), weights.double().tolist(), strict=True)
        for position, (target, weight) in enumerate(zip(targets[1:], own[1:], strict=True))
        if target != IGNORED
    )
    total = weights[:, 1:].sum().item()

    assert supervised_loss(logits, labels, total, weights).item() == pytest.approx(expected / total, rel=1e-5)


def test_weights_of_one_change_nothing_and_their_scale_does_not_matter() -> None:
    logits, labels = batch(1, 4)
    plain = supervised_loss(logits, labels, 13).item()

    for weight in (1.0, 0.02):
        weights = torch.full(labels.shape, weight)
        assert supervised_loss(logits, labels, 13 * weight, weights).item() == pytest.approx(plain, rel=1e-5)


# The same from hidden states, in chunks

WIDTH = 8


def parts(*lengths: int, bias: bool = False) -> tuple[Head, torch.Tensor, torch.Tensor]:
    """A head, hidden states and labels."""
    logits, labels = batch(*lengths)
    torch.manual_seed(5)
    linear = nn.Linear(WIDTH, VOCABULARY, bias=bias)
    return Head(nn.Identity(), linear), torch.randn(*logits.shape[:2], WIDTH), labels


def gradients(loss: torch.Tensor, hidden: torch.Tensor, linear: nn.Linear) -> list[torch.Tensor]:
    wanted = [each for each in (hidden, linear.weight, linear.bias) if each is not None and each.requires_grad]
    return [loss, *torch.autograd.grad(loss, wanted)]


@pytest.mark.parametrize("tokens", [1, 3, 100])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
def test_in_chunks_the_loss_and_its_gradients_are_the_same(
    tokens: int, bias: bool, weighted: bool, frozen: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    head, hidden, labels = parts(1, 4, 9, 2, bias=bias)
    monkeypatch.setattr(head_module, "LOGITS_AT_ONCE", tokens * VOCABULARY)
    hidden.requires_grad_()
    head.layer.requires_grad_(not frozen)
    weights = torch.rand(labels.shape, generator=torch.Generator().manual_seed(3)) if weighted else None

    chunked = gradients(head_loss(head, hidden, labels, 7.5, weights), hidden, head.layer)
    whole = gradients(supervised_loss(head.layer(hidden), labels, 7.5, weights), hidden, head.layer)

    assert len(chunked) == len(whole) == (2 if frozen else 3 + bias)
    for ours, theirs in zip(chunked, whole, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-6)


def test_an_outer_scale_reaches_every_gradient() -> None:
    head, hidden, labels = parts(1, 4)
    hidden.requires_grad_()
    once = gradients(head_loss(head, hidden, labels, 3), hidden, head.layer)
    scaled = gradients(head_loss(head, hidden, labels, 3) * 1024, hidden, head.layer)

    for one, other in zip(once, scaled, strict=True):
        torch.testing.assert_close(other, one * 1024)


def test_without_targets_the_chunked_loss_is_zero_too_and_keeps_the_graph() -> None:
    head, hidden, labels = parts(9, 9)
    hidden.requires_grad_()

    loss, *found = gradients(head_loss(head, hidden, labels, 0), hidden, head.layer)

    assert loss.item() == 0.0
    assert all(gradient.abs().sum() == 0 for gradient in found)


def test_under_autocast_products_are_rounded_and_sums_are_not() -> None:
    head, hidden, labels = parts(1, 1, 1)
    hidden.requires_grad_()
    exact = gradients(head_loss(head, hidden, labels, 24), hidden, head.layer)

    with torch.autocast("cpu", torch.bfloat16):
        loss = head_loss(head, hidden, labels, 24)
    rounded = gradients(loss, hidden, head.layer)

    assert [each.dtype for each in rounded] == [torch.float32] * 3
    assert not torch.equal(rounded[0], exact[0])
    for ours, theirs in zip(rounded, exact, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0.03, atol=3e-3)


def test_in_fp16_what_rare_words_learn_is_not_lost() -> None:
    """The words' p is below the smallest number of float16, and above it with GradScaler's factor."""
    torch.manual_seed(0)
    linear = nn.Linear(WIDTH, 3, bias=True)
    with torch.no_grad():
        linear.bias.copy_(torch.tensor([0.0, -18.0, -18.5]))  # p is 1.5e-8 and less: nothing in float16
    hidden, labels = torch.zeros(1, 33, WIDTH), torch.zeros(1, 33, dtype=torch.int64)
    hidden[..., 0] = 0.5
    hidden.requires_grad_()
    head = Head(nn.Identity(), linear)
    exact = gradients(head_loss(head, hidden, labels, 32), hidden, linear)

    with torch.autocast("cpu", torch.float16):
        scaled = head_loss(head, hidden, labels, 32) * 2.0**16  # as GradScaler does
    found = [gradient / 2.0**16 for gradient in gradients(scaled, hidden, linear)]

    assert exact[2][1:].abs().max() > 0
    for ours, theirs in zip(found, exact, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0.05, atol=0)


def test_in_fp16_a_large_factor_is_no_infinity() -> None:
    head, hidden, labels = parts(1, 4)
    head.layer.half()
    half = hidden.half().requires_grad_()

    [found] = torch.autograd.grad(head_loss(head, half, labels, 1) * 2.0**17, [half])  # float16 ends at 65,504

    assert found.isfinite().all()


class _Largest(TorchDispatchMode):
    """Remembers how large the largest tensor is that any operation makes."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        for each in made if isinstance(made, tuple | list) else [made]:
            if isinstance(each, torch.Tensor):
                self.numbers = max(self.numbers, each.numel())
        return made


def test_the_logits_are_never_held_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(head_module, "LOGITS_AT_ONCE", 4 * VOCABULARY)
    head, hidden, labels = parts(*[1] * 20)
    hidden.requires_grad_()

    with _Largest() as largest:
        head_loss(head, hidden, labels, 1).backward()

    assert hidden.numel() == 20 * 9 * WIDTH
    assert largest.numbers <= hidden.numel() < 20 * 8 * VOCABULARY


# Log-probabilities of windows


SEGMENTS = torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1, 1], [2, 2, 2, 3, 3, 3, 3, 3, 3], [4, 4, 4, 4, 4, 4, 4, 4, 4]])


@pytest.mark.parametrize("tokens", [1, 3, 100])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("frozen", [True, False])
@pytest.mark.parametrize("weighted", [True, False])
def test_each_window_gets_the_sum_of_its_targets(
    tokens: int, bias: bool, frozen: bool, weighted: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_module, "LOGITS_AT_ONCE", tokens * VOCABULARY)
    head, hidden, labels = parts(1, 2, 9, bias=bias)  # the last row has no target
    linear: Any = head.layer
    linear.requires_grad_(not frozen)
    hidden.requires_grad_()
    outer = torch.tensor([0.5, -2.0, 3.0, 0.0, 7.0, 1.0])  # of each window; the last one has no position at all

    weights = torch.rand(labels.shape) * 3 if weighted else None

    found = window_log_probs(hidden, head, labels, SEGMENTS, 6, weights)
    plain = window_log_probs(linear(hidden), None, labels, SEGMENTS, 6, weights)
    logits = linear(hidden).log_softmax(2)
    by_hand = torch.zeros(6)
    for row in range(3):
        for position in range(1, 9):
            if (label := labels[row, position]) != IGNORED:
                weight = 1.0 if weights is None else weights[row, position]
                number = nn.functional.one_hot(SEGMENTS[row, position], 6)
                by_hand = by_hand + number * weight * logits[row, position - 1, label]

    for ours in (found, plain):
        torch.testing.assert_close(ours, by_hand)
    assert found[4:].tolist() == [0, 0]
    expected = gradients(by_hand @ outer, hidden, linear)
    for ours in (gradients(found @ outer, hidden, linear), gradients(plain @ outer, hidden, linear)):
        for gradient, theirs in zip(ours, expected, strict=True):
            torch.testing.assert_close(gradient, theirs, rtol=1e-4, atol=1e-6)


def test_under_autocast_the_logits_of_log_probabilities_are_rounded_and_gradients_are_of_the_weights_type() -> None:
    head, hidden, labels = parts(1, 2, 5)
    hidden.requires_grad_()
    exact = window_log_probs(hidden, head, labels, SEGMENTS, 5)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = window_log_probs(hidden, head, labels, SEGMENTS, 5)
    linear: Any = head.layer
    by_hidden, by_weight = gradients(rounded.sum(), hidden, linear)[1:]

    assert rounded.dtype == by_hidden.dtype == by_weight.dtype == torch.float32
    assert not torch.equal(rounded, exact)
    torch.testing.assert_close(rounded, exact, rtol=0.02, atol=0.1)
    for ours, theirs in zip((by_hidden, by_weight), gradients(exact.sum(), hidden, linear)[1:], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0.1, atol=0.1)


def test_log_probabilities_over_a_large_vocabulary_are_those_of_float64() -> None:
    generator = torch.Generator().manual_seed(0)
    linear = nn.Linear(WIDTH, 50_000, bias=False)
    hidden = torch.randn(1, 65, WIDTH, generator=generator)
    labels = torch.randint(0, 50_000, (1, 65), generator=generator)
    segments = torch.arange(65)[None]
    exact = linear(hidden).double().log_softmax(2)[0, :-1].gather(1, labels[0, 1:, None]).squeeze(1)
    found = window_log_probs(hidden, Head(nn.Identity(), linear), labels, segments, 65)[1:].double()
    loss = head_loss(Head(nn.Identity(), linear), hidden, labels, 64).double()

    assert abs((found - exact).mean()) < 3e-7  # torch's log_softmax: 2.5e-6
    assert abs(loss + exact.mean()) < 1e-6


@pytest.mark.parametrize("tied", [True, False])
def test_rows_that_are_trained_alone_get_the_gradient_of_the_whole_matrix(tied: bool) -> None:
    from peft import LoraConfig
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    shape = {"hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    model = LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, tie_word_embeddings=tied, **shape))
    rows = {"embed_tokens": [5, 2]} if tied else {"embed_tokens": [5, 2], "lm_head": [5, 2]}
    model.add_adapter(LoraConfig(r=2, target_modules=["q_proj"], trainable_token_indices=rows))
    head = Head.of(model)
    assert head is not None
    ids, (_, labels) = torch.randint(VOCABULARY, (2, 9)), batch(1, 4)
    segments = torch.arange(2)[:, None].expand(2, 9)

    def gradients(loss: torch.Tensor) -> dict[str, torch.Tensor]:
        model.zero_grad()
        loss.backward()
        return {name: each.grad.clone() for name, each in model.named_parameters() if "trainable_tokens" in name}

    expected = gradients(supervised_loss(model(ids).logits, labels, 7))
    assert all(each.any() for each in expected.values())
    torch.testing.assert_close(gradients(head_loss(head, head.hidden(input_ids=ids), labels, 7)), expected)
    sums = window_log_probs(head.hidden(input_ids=ids), head, labels, segments, 2)
    torch.testing.assert_close(gradients(-sums.sum() / 7), expected)
