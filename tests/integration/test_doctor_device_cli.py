"""`convmodel doctor MODEL --device DEVICE`; wrong and incomplete devices are the CPU with faults."""

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch

from convmodel.hf_model import device_check

Run = Callable[..., int]


@pytest.mark.slow
def test_the_cpu_agrees_with_itself(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("doctor", "gpt2", "--device", "cpu") == 0
    shown = capsys.readouterr().out
    assert shown.count("✓ pass") == 2
    assert "update" in shown
    assert "logits" in shown
    assert "ms" in shown


@pytest.mark.slow
def test_json_has_the_differences_and_the_speeds(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("doctor", "gpt2", "--device", "cpu", "--json") == 0
    result = json.loads(capsys.readouterr().out)
    logits, update = result["comparisons"]
    assert (logits["name"], logits["is_right"]) == ("logits", True)
    assert (update["name"], update["is_right"]) == ("update", True)
    assert logits["difference"] <= logits["bound"]
    assert update["difference"] <= update["bound"]
    assert result["seconds_per_token"]["cpu"] > 0


@pytest.mark.slow
def test_a_wrong_device_fails_and_the_fix_is_named(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def move_wrongly(hf_model: Any) -> None:
        hf_model.lm_head.register_forward_hook(lambda _, __, output: output * 1.5)

    monkeypatch.setattr(device_check, "mover", lambda _: move_wrongly)
    assert run("doctor", "gpt2", "--device", "cpu") == 1
    shown = capsys.readouterr().out
    assert "✗ fail  logits" in shown
    assert "5.0e-01" in shown
    assert "CONVMODEL_DEVICE=cpu" in shown
    assert "PYTORCH_ENABLE_MPS_FALLBACK" not in shown


@pytest.mark.slow
def test_a_missing_operation_is_named_with_torchs_own_way_around_it(
    run: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def move(hf_model: Any) -> None:
        raise NotImplementedError("The operator 'aten::mm' is not currently implemented for the MPS device. If you ...")

    monkeypatch.setattr(device_check, "mover", lambda _: move)
    assert run("doctor", "gpt2", "--device", "cpu") == 1
    shown = capsys.readouterr().out
    assert "logits cannot be computed: The operator 'aten::mm' is not currently implemented" in shown
    assert "PYTORCH_ENABLE_MPS_FALLBACK=1" in shown
    assert run("doctor", "gpt2", "--device", "cpu", "--json") == 1
    result = json.loads(capsys.readouterr().out, parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    assert [comparison["difference"] for comparison in result["comparisons"]] == [None, None]


def test_a_device_that_is_not_there_is_an_error(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    if torch.backends.mps.is_available():
        pytest.skip("this machine has an Apple GPU")
    assert run("doctor", "gpt2", "--device", "mps") == 1
    assert "device is 'mps', which cannot be used" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "names"),
    [
        (("train.jsonl",), "DATA"),
        (("--valid", "none.jsonl", "--report", "r.html"), "--valid, --report"),
        (("--format", "sharegpt", "--on-error", "skip"), "--format, --on-error"),
        (("--conversation", "2", "--no-estimate"), "--conversation, --no-estimate"),
        (("--batch-size", "3"), "--batch-size"),
    ],
)
def test_what_a_device_is_not_checked_with_is_refused(
    run: Run, capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], names: str
) -> None:
    assert run("doctor", "gpt2", *arguments, "--device", "cpu") == 1
    assert f"on a model alone: leave out {names}\n" in capsys.readouterr().err
