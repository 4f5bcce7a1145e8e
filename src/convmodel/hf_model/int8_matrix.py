"""The values of int8 weights, and products with them as training needs these: exact for the values, and differentiable.

Owns: de-quantizing a matrix, as a whole or by rows, and the gradient of its products. The values are computed again in
the backward pass, so that those of one product at a time are in memory.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch.autograd.function import once_differentiable

_AT_ONCE = 1 << 19  # values that are computed at a time, in float32 before they are rounded


@dataclass(frozen=True, slots=True, eq=False)
class Int8Matrix:
    """Integers, a scale for each row and column, and perhaps a few rows that stand in place of theirs.

    Attributes:
        rows: Shape (outputs, inputs), int8.
        scales: Shape (outputs, 1), float32.
        columns: Shape (inputs,), float32; None if columns are not scaled.
        replaced: The numbers of these rows, and their values of shape (numbers, inputs).

    Example:
        >>> Int8Matrix(torch.tensor([[2, -4]], dtype=torch.int8), torch.tensor([[0.5]])).values(torch.float32)
        tensor([[ 1., -2.]])
    """

    rows: torch.Tensor
    scales: torch.Tensor
    columns: torch.Tensor | None = None
    replaced: tuple[Sequence[int], torch.Tensor] | None = None

    @property
    def shape(self) -> torch.Size:
        """Outputs and inputs."""
        return self.rows.shape

    @property
    def device(self) -> torch.device:
        """The device of the integers."""
        return self.rows.device

    def values(self, dtype: torch.dtype) -> torch.Tensor:
        """Returns the de-quantized values, rounded to a dtype."""
        result = torch.empty(self.shape, dtype=dtype)
        self.write(result)
        return result

    def values_of(self, part: slice | int | Sequence[int]) -> torch.Tensor:
        """Returns the values of some rows in float32, without those that are replaced."""
        values = self.rows[part].float().mul_(self.scales[part])
        return values if self.columns is None else values.mul_(self.columns)

    def write(self, result: torch.Tensor) -> None:
        """Writes the values into a matrix of any dtype."""
        step = max(1, _AT_ONCE // self.shape[1])
        for start in range(0, len(self.rows), step):
            part = slice(start, start + step)
            result[part] = self.values_of(part)
        if self.replaced is not None:
            numbers, values = self.replaced
            result[list(numbers)] = values.to(result.dtype)

    def mean(self, count: int) -> torch.Tensor:
        """Returns the mean of the first rows, without computing all their values at once."""
        total, step = torch.zeros(self.shape[1]), max(1, _AT_ONCE // self.shape[1])
        for start in range(0, count, step):
            part = slice(start, min(start + step, count))
            total += self.values_of(part).sum(0)
        return total / count


class HasMatrix(Protocol):
    """A layer with int8 weights, which may have to unpack them."""

    @property
    def matrix(self) -> Int8Matrix:
        """Its weights."""


def multiply(states: torch.Tensor, layers: Sequence[HasMatrix]) -> torch.Tensor:
    """Multiplies states of shape (rows, inputs) with the values of some layers, in the dtype of the states.

    Both passes use the same values, rounded to that dtype; the integers get no gradient.

    Returns:
        Shape (rows, outputs of all layers).
    """
    compute: Callable[..., torch.Tensor] = _Products.apply
    return compute(states, layers)


def joined_values(layers: Sequence[HasMatrix], dtype: torch.dtype) -> torch.Tensor:
    """Returns the values of some layers, below one another."""
    matrices = [layer.matrix for layer in layers]
    if len(matrices) == 1:
        return matrices[0].values(dtype)
    sizes = [len(matrix.rows) for matrix in matrices]
    result = torch.empty(sum(sizes), matrices[0].shape[1], dtype=dtype)
    for matrix, part in zip(matrices, result.split(sizes), strict=True):
        matrix.write(part)
    return result


class _Products(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, layers: Sequence[HasMatrix]) -> torch.Tensor:
        ctx.layers = layers
        return states @ joined_values(layers, states.dtype).t()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        [by_result] = gradients
        return by_result @ joined_values(ctx.layers, by_result.dtype), None
