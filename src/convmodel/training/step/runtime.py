"""The precision of training on a device, and this process's threads and memory.

Owns: choosing the precision, and setting the number of threads, how they wait and how glibc keeps freed memory while a
run lasts. Does not know the model. Everything is restored afterwards, except that glibc no longer adapts its
thresholds.
"""

import ctypes
import logging
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from convmodel.errors import ConfigError
from convmodel.hf_model.waiting import WAITING

logger = logging.getLogger(__name__)

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
"""Precisions of matrix products; weights and the optimizer's state are float32 in all of them."""


def choose_precision(precision: str, device: torch.device) -> str:
    """Returns the requested one of `PRECISIONS`; for `auto`, bf16 if the device has units for it, else fp32."""
    if precision == "auto":
        return "bf16" if computes_bf16(device) else "fp32"
    if precision == "fp16" and device.type == "cpu":
        raise ConfigError("precision is fp16, which needs a GPU: use bf16, fp32 or auto")
    return precision


def computes_bf16(device: torch.device) -> bool:
    """Returns whether a device has units for products in bfloat16; without them these are slower than in float32."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if device.type != "cpu":
        return False
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    return any(capabilities.get(name, False) for name in ("amx_bf16", "avx512_bf16"))


@contextmanager
def training_runtime(device: torch.device) -> Iterator[None]:
    """Limits torch to the cores of this process and, on a CPU, keeps freed memory, inside the block.

    On a CPU, the threads also adapt how they wait for each other to other programs.
    """
    threads = torch.get_num_threads()
    # A user who sets this variable has decided, and so has torchrun, which sets it for several processes.
    if "OMP_NUM_THREADS" not in os.environ and sys.platform == "linux":
        torch.set_num_threads(max(1, min(threads, len(os.sched_getaffinity(0)))))
    configured = any(os.environ.get(name) for name in _MEMORY_VARIABLES)
    keeps = device.type == "cpu" and not configured and _keep_freed_memory(True)
    try:
        with WAITING.adapting(device):
            yield
    finally:
        torch.set_num_threads(threads)
        if keeps:
            _keep_freed_memory(False)


_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of mallopt(3)
_MEMORY_VARIABLES = (
    "MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD",
)  # fmt: skip
"""Variables by which users configure how memory is kept, or replace glibc's allocator."""


def _keep_freed_memory(keep: bool) -> bool:
    """Makes glibc keep large freed blocks, or return each to the kernel at once, its default; returns whether it could.

    A new block costs a page fault and a cleared page for every 4 KiB that is written, and training on a CPU frees and
    allocates gigabytes in every step.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    libc.mallopt(_MMAP_MAX, 0 if keep else 65_536)
    libc.mallopt(_TRIM_THRESHOLD, 2**31 - 1 if keep else 128 * 1024)
    if not keep:
        libc.malloc_trim(0)
    return True
