"""The check of one update before a model is trained on a device: right, wrong and incomplete devices."""

from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from convmodel.hf_model import device_check
from convmodel.hf_model.device_check import Comparison
from convmodel.training import update_check
from convmodel.training.update_check import BOUND, check_bytes, compare_updates, leave_wrong_device

CONFIG = GPT2Config(n_layer=2, n_embd=16, n_head=2, n_positions=32, vocab_size=40, bos_token_id=0, eos_token_id=0)


@pytest.fixture
def hf_model(monkeypatch: pytest.MonkeyPatch) -> GPT2LMHeadModel:
    monkeypatch.setattr(device_check, "_results", {})
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return GPT2LMHeadModel(CONFIG).eval()


def right(hf_model: Any) -> None:
    """Moves the model to a device that computes what the CPU does."""


def with_wrong_gradients(factor: float) -> Any:
    """Returns a device whose logits are right, but not the gradients of one layer."""

    def move(hf_model: Any) -> None:
        hf_model.transformer.h[0].mlp.c_fc.weight.register_hook(lambda gradient: gradient * factor)

    return move


def incomplete(hf_model: Any) -> None:
    def refuse(*_: Any) -> None:
        raise NotImplementedError("The operator 'aten::scatter_add_' is not currently implemented")

    hf_model.transformer.h[0].mlp.c_fc.weight.register_hook(refuse)


def test_a_right_device_has_the_same_update_and_the_model_is_left_as_it_was(hf_model: GPT2LMHeadModel) -> None:
    before = {name: value.clone() for name, value in hf_model.state_dict().items()}
    result = compare_updates(hf_model, right)
    assert result.is_right
    assert result.difference == pytest.approx(0, abs=1e-6)
    assert all(torch.equal(value, before[name]) for name, value in hf_model.state_dict().items())
    assert not hf_model.training
    assert all(weight.grad is None for weight in hf_model.parameters())


@pytest.mark.parametrize(("factor", "is_right"), [(1.00001, True), (-1.0, False), (0.0, False), (float("nan"), False)])
def test_gradients_decide_even_if_the_logits_are_right(
    hf_model: GPT2LMHeadModel, factor: float, is_right: bool
) -> None:
    assert compare_updates(hf_model, with_wrong_gradients(factor)).is_right == is_right


def test_an_operation_that_the_backward_pass_lacks_is_the_problem(hf_model: GPT2LMHeadModel) -> None:
    assert "'aten::scatter_add_' is not" in compare_updates(hf_model, incomplete).problem


def test_models_in_half_precision_are_compared_in_float32_as_they_are_trained(hf_model: GPT2LMHeadModel) -> None:
    result = compare_updates(hf_model.bfloat16(), right)
    assert (result.bound, result.is_right) == (BOUND, True)
    assert hf_model.dtype == torch.bfloat16


@pytest.mark.parametrize(("difference", "device"), [(0.5, "cpu"), (1e-6, "meta")])
def test_training_leaves_a_device_that_computes_another_update(
    hf_model: GPT2LMHeadModel, monkeypatch: pytest.MonkeyPatch, difference: float, device: str
) -> None:
    moved: list[str] = []
    monkeypatch.setattr(update_check, "CHECKED_TYPES", {"meta"})
    monkeypatch.setattr(update_check, "compare_updates", lambda *_: Comparison("update", difference, BOUND))
    monkeypatch.setattr(update_check, "move", lambda model, target: moved.append(str(target)) or model)
    monkeypatch.setattr(update_check, "available_bytes", lambda _: None)
    assert leave_wrong_device(hf_model.to("meta")) == (device == "cpu")  # type: ignore[arg-type]
    assert (moved or ["meta"]) == [device]


def test_without_memory_for_the_check_a_line_says_so_and_the_device_stays(
    hf_model: GPT2LMHeadModel, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(update_check, "CHECKED_TYPES", {"cpu"})
    monkeypatch.setattr(update_check, "compare_updates", lambda *_: pytest.fail("it was checked"))
    monkeypatch.setattr(update_check, "available_bytes", lambda _: check_bytes(hf_model) - 1)
    assert not leave_wrong_device(hf_model)
    [message] = caplog.messages
    assert message.startswith("the update on cpu is not compared with the CPU's: that needs ")
    monkeypatch.setattr(update_check, "available_bytes", lambda _: check_bytes(hf_model))
    with pytest.raises(pytest.fail.Exception, match="it was checked"):
        leave_wrong_device(hf_model)


def test_frozen_weights_are_neither_compared_nor_counted_nor_converted(hf_model: GPT2LMHeadModel) -> None:
    hf_model.requires_grad_(False).bfloat16()
    layer = hf_model.transformer.h[1].mlp.float().requires_grad_(True)
    trained = sum(weight.numel() for weight in layer.parameters())
    assert check_bytes(hf_model) == 2 * 2 * (hf_model.num_parameters() - trained) + (2 * 4 + 8) * trained
    dtypes: list[torch.dtype] = []

    def move(copy: Any) -> None:
        dtypes.append(copy.transformer.wte.weight.dtype)
        copy.transformer.h[1].mlp.c_fc.weight.register_hook(lambda gradient: -gradient)

    with torch.autocast("cpu", torch.bfloat16):
        result = compare_updates(hf_model, move)
    assert dtypes == [torch.bfloat16]
    assert result.bound == update_check.HALF_BOUND
    assert not result.is_right


def test_an_error_on_the_cpu_is_not_blamed_on_the_device(hf_model: GPT2LMHeadModel) -> None:
    with pytest.raises(RuntimeError, match="does not require grad"):
        compare_updates(hf_model.requires_grad_(False), right)


def test_other_devices_are_not_checked(hf_model: GPT2LMHeadModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(update_check, "compare_updates", lambda *_: pytest.fail("it was checked"))
    assert not leave_wrong_device(hf_model)
