"""The check of a device before it is used: right, wrong, and incomplete devices, which are the CPU with faults."""

import logging
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from convmodel.errors import ConfigError
from convmodel.hf_model import device_check
from convmodel.hf_model.device_check import Comparison, compare_logits, decide, logits, place, seconds_per_token

CONFIG = GPT2Config(n_layer=2, n_embd=16, n_head=2, n_positions=32, vocab_size=40, bos_token_id=0, eos_token_id=0)
MISSING = "The operator 'aten::mm' is not currently implemented for the MPS device"


@pytest.fixture
def hf_model(monkeypatch: pytest.MonkeyPatch) -> GPT2LMHeadModel:
    monkeypatch.setattr(device_check, "_results", {})
    monkeypatch.delenv(device_check.VARIABLE, raising=False)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return GPT2LMHeadModel(CONFIG).eval()


def right(hf_model: Any) -> None:
    """Moves the model to a device that computes what the CPU does."""


def slightly_off(hf_model: Any) -> None:
    hf_model.lm_head.register_forward_hook(lambda _, __, output: output * 1.00001)


def wrong(hf_model: Any) -> None:
    hf_model.lm_head.register_forward_hook(lambda _, __, output: output * 1.1)


def not_finite(hf_model: Any) -> None:
    hf_model.lm_head.register_forward_hook(lambda _, __, output: output * math.nan)


def incomplete(hf_model: Any) -> None:
    def refuse(*_: Any) -> None:
        raise NotImplementedError(f"{MISSING}.\nIf you want this op to be added ...")

    hf_model.lm_head.register_forward_hook(refuse)


def without_float64(hf_model: Any) -> None:
    raise TypeError("Cannot convert a MPS Tensor to float64 dtype")


@pytest.mark.parametrize(("move", "expected"), [(right, 0.0), (slightly_off, 1e-5), (wrong, 0.1)])
def test_the_difference_is_relative_to_the_logits(
    hf_model: GPT2LMHeadModel, move: Callable[[Any], None], expected: float
) -> None:
    result = compare_logits(hf_model, move)
    assert result.difference == pytest.approx(expected, rel=0.02, abs=1e-7)
    assert result.is_right == (expected < 1e-3)
    assert result.problem == ""


def test_logits_that_are_not_finite_are_wrong(hf_model: GPT2LMHeadModel) -> None:
    assert not compare_logits(hf_model, not_finite).is_right


def test_half_precision_may_differ_more(hf_model: GPT2LMHeadModel) -> None:
    assert compare_logits(hf_model.bfloat16(), slightly_off).bound == device_check.HALF_BOUND


@pytest.mark.parametrize(("move", "problem"), [(incomplete, f"{MISSING}."), (without_float64, "float64")])
def test_what_a_device_lacks_is_the_problem(
    hf_model: GPT2LMHeadModel, move: Callable[[Any], None], problem: str
) -> None:
    result = compare_logits(hf_model, move)
    assert not result.is_right
    assert problem in result.problem
    assert "If you want" not in str(result)


def test_the_same_tokens_are_compared_each_time_and_the_modes_stay(hf_model: GPT2LMHeadModel) -> None:
    hf_model.train()
    assert torch.equal(logits(hf_model), logits(hf_model))
    assert hf_model.training
    assert seconds_per_token(hf_model, tries=1) > 0


def result(*, is_right: bool) -> Comparison:
    return Comparison("logits", 1e-6 if is_right else 0.5, 1e-3)


def test_a_right_device_is_used_and_a_line_reports_the_difference(
    hf_model: GPT2LMHeadModel, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        assert decide(hf_model, "logits", "mps", lambda: result(is_right=True)) == "mps"
    assert caplog.messages == ["using mps: logits differ from the CPU's by 1e-06, at most 0.001 is allowed"]


def test_a_wrong_device_is_not_used_and_a_line_reports_why(
    hf_model: GPT2LMHeadModel, caplog: pytest.LogCaptureFixture
) -> None:
    assert decide(hf_model, "logits", "mps", lambda: result(is_right=False)) == "cpu"
    [message] = caplog.messages
    assert message == "using the CPU instead of mps: logits differ from the CPU's by 0.5, at most 0.001 is allowed"


def test_models_of_one_shape_are_checked_once(hf_model: GPT2LMHeadModel, monkeypatch: pytest.MonkeyPatch) -> None:
    checks: list[str] = []

    def check() -> Comparison:
        checks.append("checked")
        return result(is_right=False)

    for _ in range(2):
        assert decide(hf_model, "logits", "mps", check) == "cpu"
    assert decide(GPT2LMHeadModel(CONFIG), "logits", "mps", check) == "cpu"  # other weights of the same shape
    assert len(checks) == 1
    decide(hf_model, "update", "mps", check)
    assert len(checks) == 2
    decide(GPT2LMHeadModel(GPT2Config(**CONFIG.to_diff_dict() | {"n_layer": 1})), "logits", "mps", check)
    assert len(checks) == 3
    monkeypatch.setattr(device_check, "torch", SimpleNamespace(__version__="99.0"))
    decide(hf_model, "logits", "mps", check)
    assert len(checks) == 4


@pytest.fixture
def checked(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Makes the device `meta` one that is the default and checked, with wrong logits."""
    checks: list[str] = []

    def check(*_: Any) -> Comparison:
        checks.append("checked")
        return result(is_right=False)

    monkeypatch.setattr(device_check, "CHECKED_TYPES", {"meta"})
    monkeypatch.setattr(device_check, "default_device", lambda: torch.device("meta"))
    monkeypatch.setattr(device_check, "compare_logits", check)
    return checks


def test_the_default_is_the_cpu_if_the_apple_gpu_is_wrong(
    hf_model: GPT2LMHeadModel, checked: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert place(hf_model, None).device.type == "cpu"
    assert checked == ["checked"]
    assert "using the CPU instead of meta" in caplog.text


def test_a_device_that_was_named_is_used_with_a_warning(
    hf_model: GPT2LMHeadModel, checked: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    assert place(hf_model, "meta").device.type == "meta"
    assert "meta was requested, but logits differ" in caplog.text


def test_the_environment_names_a_device(
    hf_model: GPT2LMHeadModel, checked: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(device_check.VARIABLE, "cpu")
    assert place(hf_model, None).device.type == "cpu"
    assert not checked
    monkeypatch.setenv(device_check.VARIABLE, "meta")
    assert place(hf_model, None).device.type == "meta"


def test_the_cpu_and_nvidia_gpus_are_not_checked(hf_model: GPT2LMHeadModel, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device_check, "compare_logits", lambda *_: pytest.fail("it was checked"))
    assert place(hf_model, "cpu").device.type == "cpu"
    assert place(hf_model, torch.device("meta")).device.type == "meta"


def test_a_device_that_is_not_there_is_an_error_in_one_line(hf_model: GPT2LMHeadModel) -> None:
    if torch.backends.mps.is_available():
        pytest.skip("this machine has an Apple GPU")
    with pytest.raises(ConfigError, match="device is 'mps', which cannot be used"):
        place(hf_model, "mps")
