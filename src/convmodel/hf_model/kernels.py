"""Compiled kernels for a few tokens: products with the weights of linear layers, and attention.

Owns: calling `_kernels.c`, and up to how many rows it is faster than torch. An installation without a compiler lacks
it; then torch computes everything, with the same results up to rounding.
"""

import struct
from collections.abc import Sequence
from enum import IntEnum
from typing import NamedTuple

import torch

try:
    from convmodel.hf_model import _kernels as native
except ImportError:
    native = None  # type: ignore[assignment]

FEW = 32
"""Rows up to which a product with float weights is faster than torch's, which reads the weights more slowly."""

FEW_WITH_INT8 = 128
"""The same with int8 weights."""

LARGEST_HEAD = 1024
"""The limit of a head's size."""


class Weights(NamedTuple):
    """The weights of a linear layer: contiguous, and on the CPU.

    Attributes:
        rows: Shape (outputs, inputs), float32 or int8.
        scales: The scale of each row if they are int8.
        bias: In float32, if any.
    """

    rows: torch.Tensor
    scales: torch.Tensor | None
    bias: torch.Tensor | None


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


class JointProduct:
    """The product of the same activations with the weights of several layers, side by side.

    The weights must be all float or all int8.

    Example:
        >>> weights = Weights(torch.eye(2), None, torch.tensor([1.0, 0.0]))
        >>> JointProduct([weights, weights])(torch.tensor([[3.0, 4.0]]))
        tensor([[4., 4., 4., 4.]])
    """

    def __init__(self, weights: Sequence[Weights], before: Before | None = None) -> None:
        """Looks up where the weights are; they must stay there."""
        before = before or Before()
        self._kept = weights, before
        self._inputs, self._outputs = weights[0].rows.shape[1], sum(len(each.rows) for each in weights)
        self._width = self._inputs * (2 if before.function in (Function.GATED_SILU, Function.GATED_GELU) else 1)
        norm = address(before.weight), address(before.bias), before.epsilon
        is_integer = weights[0].scales is not None
        head = struct.pack("6qd", self._inputs, len(weights), is_integer, before.function, *norm)
        self._plan = head + b"".join(struct.pack("4q", *map(address, each), len(each.rows)) for each in weights)

    def __call__(self, activations: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """Returns the products with activations of shape (rows, inputs) in float32, (rows, all outputs).

        A `residual` of the result's shape is added. Of gated activations there are twice as many as inputs.
        """
        activations = activations.contiguous()
        rows, width = activations.shape
        if width != self._width or activations.dtype != torch.float32:
            raise ValueError(f"activations are {activations.dtype} of {width} values, not float32 of {self._width}")
        results = torch.empty(rows, self._outputs)
        native.multiply(
            self._plan,
            activations.data_ptr(),
            address(residual),
            results.data_ptr(),
            rows,
            torch.get_num_threads(),
        )
        return results


class HeadNorms(NamedTuple):
    """Norms by the root mean square that are applied to each head's query and key."""

    query: torch.Tensor
    key: torch.Tensor
    epsilon: float


class StepAttention:
    """Attention of one new token of each row to the tokens before it and itself."""

    def __init__(
        self,
        shape: tuple[int, int, int, int],
        scale: float,
        *,
        norms: HeadNorms | None = None,
        cap: float | None = None,
    ) -> None:
        """Takes the numbers of query heads and of shared heads, a head's size, and how much of it is rotated."""
        self._kept, self._shape = norms, shape
        query, key, epsilon = norms or (None, None, 0.0)
        self._kind = struct.pack("6q3d", *shape, address(query), address(key), epsilon, scale, cap or 0.0)

    def __call__(
        self,
        states: torch.Tensor,
        rotation: tuple[torch.Tensor, torch.Tensor] | None,
        buffers: tuple[torch.Tensor, torch.Tensor],
        firsts: torch.Tensor,
        position: int,
    ) -> torch.Tensor:
        """Writes the keys and values of the new tokens into buffers, and attends.

        Args:
            states: Queries, keys and values of each row side by side, (rows, (heads + 2 * shared heads) * size).
            rotation: Cosines and signed sines of each row, (rows, rotated); None if nothing is rotated.
            buffers: Keys and values, (rows, shared heads, room, size).
            firsts: The first position that each row attends to, int64.
            position: The position of the new tokens in the buffers.

        Returns:
            Attended values, (rows, heads * size).
        """
        rows, (heads, _, size, _) = len(states), self._shape
        results = torch.empty(rows, heads * size)
        cos, sin = rotation or (None, None)
        native.attend(
            self._kind,
            states.data_ptr(),
            address(cos),
            address(sin),
            buffers[0].data_ptr(),
            buffers[1].data_ptr(),
            firsts.data_ptr(),
            results.data_ptr(),
            rows,
            buffers[0].shape[2],
            position,
            torch.get_num_threads(),
        )
        return results


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
