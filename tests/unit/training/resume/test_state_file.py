"""What training has in memory comes back bit for bit, without pickle."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.optimization import Adafactor

from convmodel.training.resume.state_file import load_optimizer_state, optimizer_state, read_state, write_state
from fine_tuning import no_file_larger_than


def model() -> torch.nn.Module:
    torch.manual_seed(3)
    return torch.nn.Sequential(torch.nn.Linear(5, 7), torch.nn.LayerNorm(7), torch.nn.Linear(7, 2))


def adamw(module: torch.nn.Module) -> torch.optim.Optimizer:
    matrices = [value for value in module.parameters() if value.ndim > 1]
    rest = [value for value in module.parameters() if value.ndim <= 1]
    groups = [{"params": matrices, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    return torch.optim.AdamW(groups, lr=0.1, fused=True)


def adafactor(module: torch.nn.Module) -> torch.optim.Optimizer:
    return Adafactor(module.parameters(), lr=0.1, relative_step=False, scale_parameter=False)


def adagrad(module: torch.nn.Module) -> torch.optim.Optimizer:
    return torch.optim.Adagrad(module.parameters(), lr=0.1)


def learn(module: torch.nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> None:
    for step in steps:
        torch.manual_seed(step)
        module(torch.randn(4, 5)).square().sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        optimizer.param_groups[0]["lr"] *= 0.7  # as a schedule does


@pytest.mark.parametrize("make", [adamw, adafactor, adagrad])
def test_an_optimizer_goes_on_as_if_it_had_not_stopped(make: Any, tmp_path: Path) -> None:
    whole = model()
    optimizer = make(whole)
    learn(whole, optimizer, range(3))
    weights = {name: value.clone() for name, value in whole.state_dict().items()}
    write_state(optimizer_state(optimizer, whole), tmp_path)
    learn(whole, optimizer, range(3, 6))

    resumed = model()
    resumed.load_state_dict(weights)
    other = make(resumed)
    load_optimizer_state(other, resumed, read_state(tmp_path))
    learn(resumed, other, range(3, 6))

    for name, value in whole.state_dict().items():
        assert torch.equal(value, resumed.state_dict()[name])
    assert other.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]


def test_state_belongs_to_a_name_and_not_to_a_place(tmp_path: Path) -> None:
    module = model()
    optimizer = torch.optim.AdamW(module.parameters())
    learn(module, optimizer, range(2))
    write_state(optimizer_state(optimizer, module), tmp_path)
    reordered = torch.optim.AdamW(reversed(list(module.parameters())))

    load_optimizer_state(reordered, module, read_state(tmp_path))

    for parameter in module.parameters():
        for name, value in optimizer.state[parameter].items():
            assert torch.equal(reordered.state[parameter][name], value)


def test_parameters_that_are_not_trained_have_no_state(tmp_path: Path) -> None:
    module = model()
    optimizer = torch.optim.AdamW(module[2].parameters())
    learn(module, optimizer, range(1))

    state = optimizer_state(optimizer, module)

    assert set(state["state"]) == {"2.weight", "2.bias"}
    assert state["param_groups"][0]["params"] == ["2.weight", "2.bias"]


def test_an_optimizer_before_its_first_update_comes_back(tmp_path: Path) -> None:
    module = model()
    write_state(optimizer_state(adamw(module), module), tmp_path)
    other = adamw(module)

    load_optimizer_state(other, module, read_state(tmp_path))

    assert not other.state
    assert [group["weight_decay"] for group in other.param_groups] == [0.1, 0.0]


def test_every_value_comes_back_as_it_was(tmp_path: Path) -> None:
    numbers = [0.1 + 0.2, 5e-324, 1.7976931348623157e308, -0.0, math.inf, 2**70, True, None, "", "text"]
    tensors = [
        torch.tensor(0.1),
        torch.tensor([math.nan, -0.0]),
        torch.randn(3, 4).T,
        torch.arange(5, dtype=torch.uint8)[2:],
        torch.zeros(0, 3),
        torch.tensor([1.5], dtype=torch.bfloat16),
    ]
    write_state({"numbers": numbers, "nested": {"tensors": tensors, "pair": (1, 2)}, "empty": {}}, tmp_path)

    read = read_state(tmp_path)

    assert [repr(value) for value in read["numbers"]] == [repr(value) for value in numbers]
    assert (read["nested"]["pair"], read["empty"]) == ([1, 2], {})
    for there, here in zip(read["nested"]["tensors"], tensors, strict=True):
        assert (there.dtype, there.shape) == (here.dtype, here.shape)
        assert torch.equal(there.flatten().view(torch.uint8), here.flatten().view(torch.uint8))


def test_the_files_are_safetensors_and_json(tmp_path: Path) -> None:
    write_state({"a": torch.ones(1), "b": 2}, tmp_path)

    assert {path.name for path in tmp_path.iterdir()} == {"training_state.safetensors", "training_state.json"}
    assert json.loads((tmp_path / "training_state.json").read_text()) == {"a": "tensor:/a", "b": 2}


def test_a_full_disk_is_an_os_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="large"), no_file_larger_than(1000):
        write_state({"a": torch.zeros(1000)}, tmp_path)
