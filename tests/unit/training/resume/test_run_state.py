"""Random generators continue where they were."""

import random

import numpy as np
import pytest
import torch

from convmodel.training.resume.run_state import random_state, restore_random_state


def draw() -> list[float]:
    """Takes numbers of every kind, of some generators an odd count: they make two normal numbers at a time."""
    return [
        random.random(),
        random.gauss(0, 1),
        float(np.random.rand()),
        float(np.random.randn()),
        float(torch.rand(())),
        *torch.randn(3).tolist(),
        *torch.nn.functional.dropout(torch.ones(9)).tolist(),
    ]


@pytest.fixture(autouse=True)
def _own_generators() -> None:
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)


@pytest.mark.parametrize("drawn", [0, 1, 2, 700])
def test_the_same_numbers_follow(drawn: int) -> None:
    for _ in range(drawn):
        draw()
    state = random_state()

    first = [draw() for _ in range(3)]
    restore_random_state(state)

    assert [draw() for _ in range(3)] == first


def test_a_state_can_be_one_row_of_those_of_many_processes() -> None:
    # torch reads a state from the beginning of its storage; a row begins further on.
    states = []
    for seed in (5, 6):
        torch.manual_seed(seed)
        states.append(random_state())
    stacked = {name: torch.stack([state[name] for state in states]) for name in states[0]}
    expected = draw()

    restore_random_state({name: value[1] for name, value in stacked.items()})

    assert draw() == expected


def test_the_generator_of_an_apple_gpu_is_kept_too(monkeypatch: pytest.MonkeyPatch) -> None:
    states = [torch.tensor([1, 2], dtype=torch.uint8)]
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: states[-1])
    monkeypatch.setattr(torch.mps, "set_rng_state", states.append)

    state = random_state()
    restore_random_state(state)

    assert [value.tolist() for value in states] == [[1, 2], [1, 2]]
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    restore_random_state(state)  # resumed on a machine without one
    assert len(states) == 2


class Gpus:
    """Some GPUs, whose generators have a number as their state."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, states: list[int], current: int = 0) -> None:
        self.states = states
        monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(states))
        monkeypatch.setattr(torch.cuda, "current_device", lambda: current)
        monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: torch.tensor([states[device]]))
        monkeypatch.setattr(torch.cuda, "set_rng_state", self._set)

    def _set(self, state: torch.Tensor, device: int) -> None:
        self.states[device] = int(state)  # an IndexError for a GPU that is absent, as torch raises it


@pytest.mark.parametrize("current", [0, 2])
def test_of_several_gpus_the_one_that_trains_is_saved_and_any_other_resumes(
    monkeypatch: pytest.MonkeyPatch, current: int
) -> None:
    Gpus(monkeypatch, [7, 8, 9], current)
    state = random_state()
    assert [name for name in state if name.startswith("cuda")] == [f"cuda_{current}"]

    one = Gpus(monkeypatch, [0])
    restore_random_state(state)
    assert one.states == [7 + current]
    two = Gpus(monkeypatch, [0, 0], current=1)
    restore_random_state(state)
    assert two.states == [0, 7 + current]


@pytest.mark.parametrize("count", [1, 2, 4])
def test_a_state_of_all_gpus_as_earlier_versions_saved_it_resumes_on_fewer(
    monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    state = random_state() | {f"cuda_{number}": torch.tensor([7 + number]) for number in range(3)}
    fewer = Gpus(monkeypatch, [0] * count)
    restore_random_state(state)

    assert fewer.states == [7, *[0] * (count - 1)]
