"""Products of activations with the weights of linear layers, in float32 or int8, for few and for many rows.

Owns: which implementation computes a product. Few rows take as long as reading the weights, where the compiled product
is the fastest; for many rows torch computes products, and compiled kernels the rest: norms, activation functions,
rounding, scaling.
"""

import functools
import struct
import threading
from collections.abc import Sequence
from typing import NamedTuple

import torch

from convmodel.hf_model import kernels
from convmodel.hf_model.int8_rounding import LARGEST
from convmodel.hf_model.kernels import Before, Function, address

FEW = 20
"""Rows up to which a product with float weights is faster than torch's, which reads the weights more slowly."""

FEW_WITH_INT8 = 24
"""The same with int8 weights, on a processor with units for products of 8-bit integers."""

FEW_WITH_INT8_AS_FLOATS = 128
"""The same where they are converted to floats for torch's product."""

_LARGEST_PART = 1 << 21  # sums of integers that are kept at a time, or weights that are converted to floats


class Weights(NamedTuple):
    """The weights of a linear layer: contiguous, and on the CPU.

    Attributes:
        rows: Shape (outputs, inputs), float32 or int8.
        scales: The scale of each row if they are int8.
        bias: In float32, if any.
        columns: The scale of each column, if any: activations are multiplied by it.
    """

    rows: torch.Tensor
    scales: torch.Tensor | None
    bias: torch.Tensor | None
    columns: torch.Tensor | None = None


def can_be_joined(weights: Sequence[Weights]) -> bool:
    """Returns whether layers have a joint product: they round their activations in the same way, or not at all."""
    return len({(each.scales is None, address(each.columns)) for each in weights}) == 1


class JointProduct:
    """The product of the same activations with the weights of several layers, side by side.

    The weights must be all float or all int8, and have the same tensor of column scales.

    Example:
        >>> weights = Weights(torch.eye(2), None, torch.tensor([1.0, 0.0]))
        >>> JointProduct([weights, weights])(torch.tensor([[3.0, 4.0]]))
        tensor([[4., 4., 4., 4.]])
    """

    def __init__(self, weights: Sequence[Weights], before: Before | None = None) -> None:
        """Looks up where the weights are; they must stay there."""
        if not can_be_joined(weights):
            raise ValueError("the layers do not round their activations in the same way")
        self._before = before or Before()
        self._weights = weights
        self._inputs, self._outputs = weights[0].rows.shape[1], sum(len(each.rows) for each in weights)
        is_gated = self._before.function in (Function.GATED_SILU, Function.GATED_GELU)
        self._width = self._inputs * (2 if is_gated else 1)
        self._is_integer = weights[0].scales is not None
        counts = self._inputs, len(weights), self._is_integer, self._before.function
        weight, bias, epsilon = address(self._before.weight), address(self._before.bias), self._before.epsilon
        head = struct.pack("7qd", *counts, weight, bias, address(weights[0].columns), epsilon)
        self._plan = head + b"".join(struct.pack("4q", *map(address, each[:3]), len(each.rows)) for each in weights)

    def __call__(self, activations: torch.Tensor, residual: torch.Tensor | None = None) -> torch.Tensor:
        """Returns the products with activations of shape (rows, inputs) in float32, (rows, all outputs).

        A `residual` of the result's shape is added. Of gated activations there are twice as many as inputs.
        """
        activations = activations.contiguous()
        rows, width = activations.shape
        if width != self._width or activations.dtype != torch.float32:
            raise ValueError(f"activations are {activations.dtype} of {width} values, not float32 of {self._width}")
        results = torch.empty(rows, self._outputs)
        if rows > self._few():
            self._multiply_many(activations, residual, results)
            return results
        kernels.native.multiply(
            self._plan,
            activations.data_ptr(),
            address(residual),
            results.data_ptr(),
            rows,
            torch.get_num_threads(),
        )
        return results

    def _few(self) -> int:
        """Returns up to how many rows the compiled product is the fastest."""
        if not self._is_integer:
            return FEW
        return FEW_WITH_INT8 if has_int8_units() else FEW_WITH_INT8_AS_FLOATS

    @torch.no_grad()  # which writing into results needs
    def _multiply_many(self, activations: torch.Tensor, residual: torch.Tensor | None, results: torch.Tensor) -> None:
        """Writes the products with many rows into results."""
        if self._is_integer and has_int8_units():
            self._multiply_integers(activations, residual, results)
            return
        if self._before.function != Function.NOTHING or self._weights[0].columns is not None:
            prepared = torch.empty(len(activations), self._inputs)
            self._prepare(activations, prepared, None)
            activations = prepared
        column = 0
        for weights in self._weights:
            for part in _parts(weights.rows, weights.rows.shape[1] if self._is_integer else 1):
                product = results[:, column : column + part.stop - part.start]
                column += part.stop - part.start
                torch.mm(activations, weights.rows[part].to(torch.float32).t(), out=product)
                if weights.scales is not None:
                    product.mul_(weights.scales[part])
                if weights.bias is not None:
                    product.add_(weights.bias[part])
        if residual is not None:
            results.add_(residual)

    def _multiply_integers(
        self, activations: torch.Tensor, residual: torch.Tensor | None, results: torch.Tensor
    ) -> None:
        """Multiplies 8-bit integers, two for each activation: `coarse * base + fine`."""
        rows, column = len(activations), 0
        integers, scales = torch.empty(2 * rows, self._inputs, dtype=torch.int8), torch.empty(rows)
        self._prepare(activations, integers, scales)
        for number, weights in enumerate(self._weights):
            for part in _parts(weights.rows, 2 * rows):
                sums = _scratch(2 * rows, part.stop - part.start)
                torch._int_mm(integers, weights.rows[part].t(), out=sums)
                kernels.native.scale(
                    self._plan,
                    number,
                    part.start,
                    part.stop - part.start,
                    sums.data_ptr(),
                    scales.data_ptr(),
                    address(residual),
                    results.data_ptr(),
                    rows,
                    column,
                    torch.get_num_threads(),
                )
            column += len(weights.rows)

    def _prepare(self, activations: torch.Tensor, results: torch.Tensor, scales: torch.Tensor | None) -> None:
        """Applies what comes before a product, and rounds to integers if scales are wanted."""
        kernels.native.prepare(
            self._plan,
            activations.data_ptr(),
            results.data_ptr(),
            address(scales),
            len(activations),
            torch.get_num_threads(),
        )


_kept = threading.local()  # since new memory costs a page fault for every 4 KiB, a tenth of the time of a prompt


def _scratch(rows: int, columns: int) -> torch.Tensor:
    """Returns memory for sums of integers, which this thread's next call overwrites."""
    if len(getattr(_kept, "sums", ())) < rows * columns:
        with torch.inference_mode(False):  # so that calls in another mode may write into it
            _kept.sums = torch.empty(max(_LARGEST_PART, rows * columns), dtype=torch.int32)
    kept: torch.Tensor = _kept.sums
    return kept[: rows * columns].view(rows, columns)


def _parts(rows: torch.Tensor, each: int) -> list[slice]:
    """Splits the rows of a matrix, so that a part with `each` values per row has few values."""
    size = max(1, _LARGEST_PART // each)
    return [slice(start, min(start + size, len(rows))) for start in range(0, len(rows), size)]


@functools.cache
def has_int8_units() -> bool:
    """Returns whether this processor multiplies 8-bit integers faster than floats, and torch does so correctly."""
    capabilities = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}
    if not any(capabilities.get(name, False) for name in ("amx_int8", "avx512_vnni")):
        return False
    ones = torch.full((64, 64), LARGEST, dtype=torch.int8)
    return bool((torch._int_mm(ones, ones.t()) == 64 * LARGEST**2).all())
