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
    state = random_state(all_devices=True)

    first = [draw() for _ in range(3)]
    restore_random_state(state)

    assert [draw() for _ in range(3)] == first


def test_a_state_can_be_one_row_of_those_of_many_processes() -> None:
    # torch reads a state from the beginning of its storage; a row begins further on.
    states = []
    for seed in (5, 6):
        torch.manual_seed(seed)
        states.append(random_state(all_devices=False))
    stacked = {name: torch.stack([state[name] for state in states]) for name in states[0]}
    expected = draw()

    restore_random_state({name: value[1] for name, value in stacked.items()})

    assert draw() == expected


def test_the_generator_of_an_apple_gpu_is_kept_too(monkeypatch: pytest.MonkeyPatch) -> None:
    states = [torch.tensor([1, 2], dtype=torch.uint8)]
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda: states[-1])
    monkeypatch.setattr(torch.mps, "set_rng_state", states.append)

    state = random_state(all_devices=True)
    restore_random_state(state)

    assert [value.tolist() for value in states] == [[1, 2], [1, 2]]
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    restore_random_state(state)  # resumed on a machine without one
    assert len(states) == 2
