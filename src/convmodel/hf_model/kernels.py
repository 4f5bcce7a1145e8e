"""Loads the compiled kernels for generation, `_kernels.c`.

Owns: where they can be used, and what they apply to activations. An installation without a compiler lacks them; then
torch computes everything, with the same results up to rounding. Products are called in `joint_product`, attention in
`cached_attention`.
"""

from enum import IntEnum
from typing import NamedTuple

import torch

try:
    from convmodel.hf_model import _kernels
except ImportError:
    _kernels = None  # type: ignore[assignment]

native = _kernels
"""The compiled module; None without it."""

LARGEST_HEAD = 1024
"""The limit of a head's size."""


class Function(IntEnum):
    """What can be applied to activations before a product; GELU is its tanh approximation.

    A gated activation function is applied to the first half of the activations, and multiplied by the second half.
    """

    NOTHING = 0
    RMS_NORM = 1
    LAYER_NORM = 2
    SILU = 3
    GELU = 4
    GATED_SILU = 5
    GATED_GELU = 6


class Before(NamedTuple):
    """What is applied to activations before a product, and the weights of a norm."""

    function: Function = Function.NOTHING
    weight: torch.Tensor | None = None
    bias: torch.Tensor | None = None
    epsilon: float = 0.0


def address(tensor: torch.Tensor | None) -> int:
    """Returns where a tensor's values begin; 0 without a tensor."""
    return 0 if tensor is None else tensor.data_ptr()


def log_sums(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Returns the logarithm of the sum of exponentials of each row of logits, and the column of its largest value.

    Example:
        >>> sums, columns = log_sums(torch.tensor([[1.0, 3.0, 3.0]]))
        >>> sums.round(decimals=3), columns
        (tensor([3.7590]), tensor([1]))
    """
    if not can_multiply(logits):
        return logits.logsumexp(-1), logits.argmax(-1)
    rows, columns = logits.shape
    sums, places = torch.empty(rows), torch.empty(rows, dtype=torch.long)
    native.log_sums(logits.data_ptr(), sums.data_ptr(), places.data_ptr(), rows, columns)
    return sums, places


def are_compiled() -> bool:
    """Returns whether this installation has the compiled kernels."""
    return native is not None


def can_multiply(weight: torch.Tensor) -> bool:
    """Returns whether the compiled products take a matrix: in float32, contiguous, and on the CPU."""
    return (
        are_compiled()
        and weight.dtype == torch.float32
        and weight.device.type == "cpu"
        and weight.layout == torch.strided
        and weight.is_contiguous()
    )
