"""The devices that models are put on.

Owns: which one is the default, moving a model there, which devices are checked against the CPU first, what a device
lacks, its random state, and returning memory that torch keeps. Does not know how they are compared.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

import torch
from transformers import PreTrainedModel

from convmodel.errors import ConfigError

CHECKED_TYPES = frozenset({"mps"})
"""Types of devices that are compared with the CPU before they are used: torch supports a part of them, or recently."""

UNUSABLE = (RuntimeError, AssertionError, TypeError, ValueError)  # NotImplementedError is a RuntimeError
"""What torch raises for a device that is not there, or lacks a dtype or an operation."""


def default_device() -> torch.device:
    """Returns the NVIDIA GPU of this process if there is one, else an Apple GPU, else the CPU.

    Of several processes each takes the NVIDIA GPU of its rank, which torchrun sets. They do not share an Apple GPU,
    where their gradients could not be summed.
    """
    if torch.cuda.is_available():
        return torch.device(f"cuda:{os.environ.get('LOCAL_RANK', '0')}")
    if torch.backends.mps.is_available() and int(os.environ.get("WORLD_SIZE") or 1) == 1:
        return torch.device("mps")
    return torch.device("cpu")


def move(hf_model: PreTrainedModel, device: str | torch.device) -> PreTrainedModel:
    """Moves a model to a device.

    Raises:
        ConfigError: If the device cannot be used.
    """
    try:
        hf_model.to(torch.device(device))  # type: ignore[arg-type]
    except UNUSABLE as error:
        raise _unusable(device, error) from error
    return hf_model


def require_device(device: str | torch.device) -> None:
    """Raises a `ConfigError` unless a tensor can be put on a device.

    Example:
        >>> require_device("gpu")
        Traceback (most recent call last):
        convmodel.errors.ConfigError: device is 'gpu', which cannot be used: Expected one of cpu, cuda, ...
    """
    try:
        torch.zeros(1).to(torch.device(device))
    except UNUSABLE as error:
        raise _unusable(device, error) from error


def _unusable(device: str | torch.device, error: Exception) -> ConfigError:
    return ConfigError(f"device is {str(device)!r}, which cannot be used: {first_line(error)}")


def first_line(error: BaseException) -> str:
    """Returns the first line of an error's message; torch appends long lists of operations to some.

    Example:
        >>> first_line(RuntimeError(f"no such operation{chr(10)}CPU: registered at ..."))
        'no such operation'
    """
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__


@cache
def has_float64(device: torch.device) -> bool:
    """Returns whether a device has numbers in float64; Apple GPUs have none.

    Example:
        >>> has_float64(torch.device("cpu"))
        True
    """
    try:
        torch.zeros((), dtype=torch.float64, device=device)
    except UNUSABLE:
        return False
    return True


def sum_dtype(device: torch.device) -> torch.dtype:
    """Returns the dtype to sum many values in: float64, or float32 on a device without it.

    Example:
        >>> sum_dtype(torch.device("cpu"))
        torch.float64
    """
    return torch.float64 if has_float64(device) else torch.float32


def synchronize(device: torch.device) -> None:
    """Waits until a device has computed everything it was given, to measure time."""
    wait: Any = getattr(getattr(torch, device.type, None), "synchronize", None)
    if wait is not None and device.type != "cpu":
        wait()


def release_kept_memory() -> None:
    """Returns the memory that torch keeps on a GPU for its next tensors, so that other processes can use it."""
    torch.cuda.empty_cache()  # does nothing without CUDA
    if torch.backends.mps.is_available():
        torch.mps.empty_cache()


@contextmanager
def own_random_state(device: torch.device | None = None) -> Iterator[None]:
    """Restores torch's global generators after the block: the CPU's, and a device's or, by default, those of all GPUs.

    Example:
        >>> before = torch.get_rng_state()
        >>> with own_random_state(torch.device("cpu")):
        ...     _ = torch.manual_seed(1)
        >>> torch.equal(torch.get_rng_state(), before)
        True
    """
    kind = (device or default_device()).type
    devices: list[Any] = []
    if kind != "cpu":  # whose generator is always restored
        devices = [*range(torch.get_device_module(kind).device_count())] if device is None else [device]
    with torch.random.fork_rng(devices, device_type=kind):
        yield
