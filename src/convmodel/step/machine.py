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
from torch import nn
from transformers.activations import FastGELUActivation, NewGELUActivation

from convmodel.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

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


@contextmanager
def fused_activations(model: nn.Module) -> Iterator[None]:
    """Replaces GPT-2's GELU, eight operations in a row, by torch's one operation that computes the same.

    The tanh approximation of Hendrycks and Gimpel (2016), arXiv:1606.08415, in both cases.
    """
    slow = (NewGELUActivation, FastGELUActivation)
    replaced = [
        (parent, name, child)
        for parent in model.modules()
        for name, child in parent.named_children()
        if isinstance(child, slow)
    ]
    for parent, name, _ in replaced:
        setattr(parent, name, nn.GELU("tanh"))
    try:
        yield
    finally:
        for parent, name, child in replaced:
            setattr(parent, name, child)


@contextmanager
def dropout_of(model: nn.Module, rate: float) -> Iterator[None]:
    """Sets the rate of all dropout inside the block: of layers, and of modules that keep a rate themselves.

    Attention weights are never dropped: no fast attention on a CPU knows how, and a step would take twice as long.
    """
    before = [
        (module, name, value, 0.0 if _of_attention(path, name) else rate)
        for path, module in model.named_modules()
        if "lora_" not in path  # LoRA's own, named lora_dropout, has a setting of its own
        for name, value in vars(module).items()
        if isinstance(value, float) and (name.endswith("dropout") or (name == "p" and isinstance(module, nn.Dropout)))
    ]
    try:
        for module, name, _, wanted in before:
            setattr(module, name, wanted)
        yield
    finally:
        for module, name, value, _ in before:
            setattr(module, name, value)


def _of_attention(path: str, name: str) -> bool:
    """Tells whether a rate is that of attention weights: `attn_dropout.p`, `attention_dropout`, `self_attn.dropout`."""
    return "att" in name or (name in ("p", "dropout") and "att" in path.rpartition(".")[2])


@contextmanager
def checkpointing(hf_model: "PreTrainedModel", wanted: bool) -> Iterator[None]:
    """Computes activations a second time in the backward pass instead of keeping them, if that is wanted."""
    if not wanted or any(getattr(module, "gradient_checkpointing", False) for module in hf_model.modules()):
        yield
        return
    if not hf_model.supports_gradient_checkpointing:
        raise ConfigError(f"{hf_model.config.model_type} cannot checkpoint gradients: leave gradient_checkpointing out")
    # What newer versions of transformers call them comes first.
    kind = "activation" if hasattr(hf_model, "activation_checkpointing_enable") else "gradient"
    getattr(hf_model, f"{kind}_checkpointing_enable")({"use_reentrant": False})
    try:
        yield
    finally:
        getattr(hf_model, f"{kind}_checkpointing_disable")()


@contextmanager
def compiled(module: nn.Module, wanted: bool) -> Iterator[None]:
    """Compiles what a module computes, if that is wanted."""
    with own_attributes(module, "_compiled_call_impl"):
        if wanted:
            module.compile()
        yield


@contextmanager
def own_attributes(module: nn.Module, *names: str) -> Iterator[None]:
    """Puts back afterwards what a module itself, rather than its class, has under some names; often nothing."""
    before = {name: vars(module)[name] for name in names if name in vars(module)}
    try:
        yield
    finally:
        for name in names:
            vars(module).pop(name, None)
        vars(module).update(before)
