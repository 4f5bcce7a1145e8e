"""A model that learns computes its loss, and is the caller's again afterwards."""

from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from convmodel.hf_model.lm_head import Head
from convmodel.hf_model.waiting import Waiting
from convmodel.training.step import forward
from convmodel.training.step.forward import computing_loss, plain_forward

IDS = torch.arange(24).reshape(2, 12)


@pytest.fixture
def gpt2() -> GPT2LMHeadModel:
    torch.manual_seed(0)
    return GPT2LMHeadModel(GPT2Config(vocab_size=61, n_embd=16, n_layer=1, n_head=2, n_positions=32)).eval()


def test_a_model_without_a_forward_of_its_own_has_none_afterwards(gpt2: GPT2LMHeadModel) -> None:
    with computing_loss(gpt2, Head.of(gpt2)):
        assert gpt2(input_ids=IDS, labels=IDS, total_weight=22.0).shape == ()
        gpt2._original_forward = gpt2.forward  # as accelerate does

    assert not {"forward", "_original_forward"} & vars(gpt2).keys()


def test_the_callers_own_forward_is_used_for_logits_and_comes_back(gpt2: GPT2LMHeadModel) -> None:
    plain, calls = gpt2.forward, []

    def hooked(*args: Any, **inputs: Any) -> Any:
        calls.append(sorted(inputs))
        return plain(*args, **inputs)

    gpt2.forward = hooked
    gpt2._original_forward = plain

    with computing_loss(gpt2, Head.of(gpt2)):
        calls.clear()
        with plain_forward(gpt2):
            gpt2(input_ids=IDS)
        assert calls == [["input_ids"]]

    assert gpt2.forward is hooked
    assert gpt2._original_forward is plain


def test_what_accelerate_wraps_around_is_left_out_of_plain_computing_only(gpt2: GPT2LMHeadModel) -> None:
    with computing_loss(gpt2, Head.of(gpt2)):
        gpt2._original_forward = gpt2.forward
        gpt2.forward = wrapped = lambda *args, **inputs: "wrapped"

        with plain_forward(gpt2):
            assert gpt2(input_ids=IDS).logits.shape == (2, 12, 61)
        assert gpt2.forward is wrapped


def test_the_threads_look_at_each_batch_of_training(gpt2: GPT2LMHeadModel, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting, looks = Waiting(), []
    monkeypatch.setattr(waiting, "look", lambda: looks.append(len(looks)))
    monkeypatch.setattr(forward, "WAITING", waiting)
    with computing_loss(gpt2, Head.of(gpt2)):
        for _ in range(2):
            gpt2(input_ids=IDS, labels=IDS, total_weight=22.0).backward()
        with plain_forward(gpt2):  # whoever evaluates or generates looks for itself
            gpt2(input_ids=IDS)

    assert looks == [0, 1]


def test_the_number_of_threads_comes_back(gpt2: GPT2LMHeadModel) -> None:
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        with plain_forward(gpt2):
            torch.set_num_threads(1)  # as the engine does while other programs compute
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
