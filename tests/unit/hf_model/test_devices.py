"""Which device is the default, and what a device lacks."""

import pytest
import torch

from convmodel.errors import ConfigError
from convmodel.hf_model import devices
from convmodel.hf_model.devices import (
    default_device,
    has_float64,
    move,
    own_random_state,
    release_kept_memory,
    require_device,
    sum_dtype,
    synchronize,
)


def have(monkeypatch: pytest.MonkeyPatch, *, cuda: bool, mps: bool) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: mps)


@pytest.mark.parametrize(
    ("cuda", "mps", "expected"),
    [(True, True, "cuda:0"), (True, False, "cuda:0"), (False, True, "mps"), (False, False, "cpu")],
)
def test_an_nvidia_gpu_goes_before_an_apple_gpu_and_the_cpu(
    monkeypatch: pytest.MonkeyPatch, cuda: bool, mps: bool, expected: str
) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    have(monkeypatch, cuda=cuda, mps=mps)
    assert default_device() == torch.device(expected)


def test_each_process_takes_the_nvidia_gpu_of_its_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "3")
    have(monkeypatch, cuda=True, mps=False)
    assert default_device() == torch.device("cuda:3")


def test_several_processes_do_not_share_an_apple_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    have(monkeypatch, cuda=False, mps=True)
    assert default_device() == torch.device("cpu")


@pytest.mark.parametrize("device", ["gpu", "cuda:99", "cpu:x"])
def test_a_device_that_cannot_be_used_is_named(device: str) -> None:
    with pytest.raises(ConfigError, match=f"device is '{device}', which cannot be used: "):
        require_device(device)


def test_a_model_stays_where_it_is_if_the_device_cannot_be_used() -> None:
    layer = torch.nn.Linear(2, 2)
    with pytest.raises(ConfigError, match="device is 'gpu'"):
        move(layer, "gpu")  # type: ignore[arg-type]
    assert layer.weight.device == torch.device("cpu")


def test_sums_are_in_float32_where_there_is_no_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> None:
        raise TypeError("Cannot convert a MPS Tensor to float64 dtype as the MPS framework doesn't support float64")

    assert sum_dtype(torch.device("cpu")) == torch.float64
    device = torch.device("meta", 7)  # of which nothing is remembered
    monkeypatch.setattr(devices.torch, "zeros", refuse)
    assert not has_float64(device)
    assert sum_dtype(device) == torch.float32


def test_a_device_is_waited_for_if_its_module_can(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[str] = []
    monkeypatch.setattr(torch.mps, "synchronize", lambda: waited.append("mps"))
    synchronize(torch.device("mps"))
    synchronize(torch.device("cpu"))
    synchronize(torch.device("meta"))
    assert waited == ["mps"]


@pytest.mark.parametrize("device", [torch.device("mps"), None])
def test_the_random_states_of_the_cpu_and_of_an_apple_gpu_are_restored(
    monkeypatch: pytest.MonkeyPatch, device: torch.device | None
) -> None:
    restored: list[torch.Tensor] = []
    have(monkeypatch, cuda=False, mps=True)
    monkeypatch.setattr(torch.mps, "device_count", lambda: 1)
    monkeypatch.setattr(torch.mps, "get_rng_state", lambda _: torch.tensor([7]))
    monkeypatch.setattr(torch.mps, "set_rng_state", lambda state, _: restored.append(state))
    before = torch.get_rng_state()
    with own_random_state(device):
        torch.rand(1)
    assert torch.equal(torch.get_rng_state(), before)
    assert restored == [torch.tensor([7])]


def test_the_random_states_of_all_nvidia_gpus_are_restored(monkeypatch: pytest.MonkeyPatch) -> None:
    restored: list[tuple[str, int]] = []
    have(monkeypatch, cuda=True, mps=False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda device: f"state {device}")
    monkeypatch.setattr(torch.cuda, "set_rng_state", lambda state, device: restored.append((state, device)))
    with own_random_state():
        pass
    assert restored == [("state 0", 0), ("state 1", 1)]


@pytest.mark.parametrize("mps", [True, False])
def test_memory_that_torch_keeps_is_returned_by_the_kind_of_gpu(monkeypatch: pytest.MonkeyPatch, mps: bool) -> None:
    have(monkeypatch, cuda=not mps, mps=mps)
    released: list[str] = []
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: released.append("cuda"))
    monkeypatch.setattr(torch.mps, "empty_cache", lambda: released.append("mps"))
    release_kept_memory()
    assert released == (["cuda", "mps"] if mps else ["cuda"])
