"""What the machine at hand is good at, and setting this process up for training on it.

Owns: the choice of the precision, of the number of threads and of how memory is given back. All is undone afterwards,
but glibc goes on with its first thresholds for giving memory back, and no longer adapts them.
"""

import ctypes
import logging
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import torch

from convmodel.errors import ConfigError

if TYPE_CHECKING:
    pass

logger = logging.getLogger(__name__)

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""What matrix products are computed in; weights and the optimizer's state are float32 in all of them."""


def choose_precision(wanted: str, device: torch.device) -> str:
    """Decides what matrix products are computed in.

    Args:
        wanted: `auto`, or one of `PRECISIONS`.
        device: Where the model is.

    Returns:
        What was asked for; for `auto`, bf16 where the device has units for it, and fp32 elsewhere.

    Raises:
        ConfigError: If the device cannot do what was asked for.

    Example:
        >>> choose_precision("fp32", torch.device("cpu"))
        'fp32'
    """
    if wanted == "auto":
        return "bf16" if computes_bf16(device) else "fp32"
    if wanted == "fp16" and device.type == "cpu":
        raise ConfigError("precision is fp16, which needs a GPU: use bf16, fp32 or auto")
    return wanted


def computes_bf16(device: torch.device) -> bool:
    """Tells whether a device has units for products in bfloat16, without which these are slower than in float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    found = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(found.get(name, False) for name in ("amx_bf16", "avx512_bf16"))


@contextmanager
def set_up(device: torch.device) -> Iterator[None]:
    """Gives torch the cores that this process may use and keeps its memory from being returned after each tensor."""
    threads = torch.get_num_threads()
    # Whoever sets this variable has decided; torchrun does, for several processes on one machine.
    if "OMP_NUM_THREADS" not in os.environ and sys.platform == "linux":
        torch.set_num_threads(max(1, min(threads, len(os.sched_getaffinity(0)))))
    decided = any(os.environ.get(name) for name in _MEMORY_VARIABLES)
    keeps = device.type == "cpu" and not decided and _keep_freed_memory(True)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        if keeps:
            _keep_freed_memory(False)


_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of mallopt(3)
_MEMORY_VARIABLES = (
    "MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD",
)  # fmt: skip
"""Whoever sets one of them has decided how memory is kept, or put another allocator in place of glibc's."""


def _keep_freed_memory(keep: bool) -> bool:
    """Tells glibc whether to keep large blocks that are freed, or to return each to the kernel at once, its default.

    A fresh block costs a page fault and a cleared page for every 4 KiB that is written; training on a CPU frees and
    takes gigabytes in every update.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    libc.mallopt(_MMAP_MAX, 0 if keep else 65_536)
    libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1 if keep else 128 * 1024)
    if not keep:
        libc.malloc_trim(0)
    return True
