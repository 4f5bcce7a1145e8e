"""What the machine at hand is good at, and setting this process up for training on it.

Owns: the choice of the precision, of the number of threads and of how memory is given back; all undone afterwards.
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
    keeps = device.type == "cpu" and _keep_freed_memory(True)
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        if keeps:
            _keep_freed_memory(False)


_TRIM_THRESHOLD, _MMAP_MAX = -1, -4  # of mallopt(3)


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
    """Sets the rate of all dropout in a model inside the block."""
    # LoRA's own, named lora_dropout, has a setting of its own.
    layers = [layer for name, layer in model.named_modules() if isinstance(layer, nn.Dropout) and "lora_" not in name]
    attentions = [layer for layer in model.modules() if isinstance(getattr(layer, "attention_dropout", None), float)]
    before = [layer.p for layer in layers], [layer.attention_dropout for layer in attentions]
    try:
        for layer in layers:
            layer.p = rate
        for attention in attentions:
            attention.attention_dropout = rate  # type: ignore[assignment]
        yield
    finally:
        for layer, was in zip(layers, before[0], strict=True):
            layer.p = was
        for attention, rate_before in zip(attentions, before[1], strict=True):
            attention.attention_dropout = rate_before


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
    if wanted:
        module.compile()
    try:
        yield
    finally:
        if wanted:
            module._compiled_call_impl = None
