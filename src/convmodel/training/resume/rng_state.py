"""The states of all random generators that training uses.

Owns: reading them as tensors, which safetensors can store and processes can exchange, and restoring them.
"""

import random
from typing import cast

import numpy as np
import torch


def random_state(*, all_devices: bool) -> dict[str, torch.Tensor]:
    """Returns the states of Python's, numpy's and torch's global generators.

    Args:
        all_devices: Whether to include every visible GPU, rather than the current one; with a process for each GPU,
            that would occupy memory on the others.

    Example:
        >>> state = random_state(all_devices=True)
        >>> one = random.random(), torch.rand(())
        >>> restore_random_state(state)
        >>> one == (random.random(), torch.rand(()))
        True
    """
    _, keys, gauss = random.getstate()
    _, words, position, has_gauss, cached = cast("tuple[str, np.ndarray, int, int, float]", np.random.get_state())
    state = {
        "python": torch.tensor(keys, dtype=torch.int64),
        "python_gauss": torch.tensor(float("nan") if gauss is None else gauss, dtype=torch.float64),
        "numpy": torch.tensor([*words.tolist(), position, has_gauss], dtype=torch.int64),
        "numpy_gauss": torch.tensor(cached, dtype=torch.float64),
        "torch": torch.get_rng_state(),
    }
    for device in _devices(all_devices=all_devices):
        state[f"cuda_{device}"] = torch.cuda.get_rng_state(device)
    return state


def restore_random_state(state: dict[str, torch.Tensor]) -> None:
    """Restores the generators to a state that `random_state` returned."""
    gauss = float(state["python_gauss"])
    random.setstate((3, tuple(state["python"].tolist()), None if np.isnan(gauss) else gauss))
    *words, position, has_gauss = state["numpy"].tolist()
    np.random.set_state(("MT19937", np.array(words, np.uint32), position, has_gauss, float(state["numpy_gauss"])))
    # Copied, since torch reads from the start of the storage even if the tensor is a later part of it.
    torch.set_rng_state(state["torch"].cpu().clone())
    devices = [name for name in state if name.startswith("cuda_")]
    for name in devices if torch.cuda.is_available() else ():
        # A restarted process may get another GPU: its single state is for the current one.
        device = int(name.removeprefix("cuda_")) if len(devices) > 1 else torch.cuda.current_device()
        torch.cuda.set_rng_state(state[name].cpu().clone(), device)


def _devices(*, all_devices: bool) -> list[int]:
    if not torch.cuda.is_available():
        return []
    return list(range(torch.cuda.device_count())) if all_devices else [torch.cuda.current_device()]
