"""Layers with int8 weights, for inference on CPUs.

Owns: how weights and activations are rounded, and their products. Each row of a weight and the activations of each
token are scaled to integers by their largest value (Dettmers et al. 2022, "LLM.int8()", arXiv:2208.07339, section 2:
absmax, vector-wise). Activations have outliers, which would round the other values to zero in 8 bits; therefore they
have about 14. Integer sums are exact, so results do not depend on the rest of the batch.

Some inputs have much larger weights than others, which would take most of a row's 8 bits. Therefore columns are scaled,
too, and activations by the inverse, as in SmoothQuant (Xiao et al. 2022, arXiv:2211.10438), here for the weights alone.
"""

import ctypes
import functools
import mmap
import sys
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from convmodel.hf_model.joint_product import JointProduct, Weights
from convmodel.hf_model.kernels import are_compiled

_LARGEST = 127  # largest integer of a weight
_AT_ONCE = 1 << 19  # weights that are rounded at a time, because that needs a copy of them


class Int8Linear(nn.Module, ABC):
    """A linear layer with int8 weights.

    Example:
        >>> weight = torch.tensor([[0.5, -1.0], [2.0, 0.0]])
        >>> layer = int8_linear(weight, torch.tensor([1.0, 0.0]))
        >>> layer(torch.tensor([[1.0, 1.0]])).round(decimals=1)
        tensor([[0.5000, 2.0000]])
    """

    def __init__(
        self,
        rows: torch.Tensor,
        scales: torch.Tensor,
        bias: torch.Tensor | None,
        columns: torch.Tensor | None = None,
    ) -> None:
        """Takes integers of shape (outputs, inputs), and scales of shapes (outputs, 1) and (inputs,)."""
        super().__init__()
        self.out_features, self.in_features = rows.shape
        self.scales, self.columns = scales.flatten(), columns
        self.bias = None if bias is None else nn.Parameter(bias.detach().float().clone(), requires_grad=False)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Applies the layer to activations of shape (..., inputs), scaled per token."""
        product = self.multiply(states.reshape(-1, self.in_features).float())
        return product.view(*states.shape[:-1], self.out_features).to(states.dtype)

    @abstractmethod
    def multiply(self, tokens: torch.Tensor) -> torch.Tensor:
        """Returns the product with activations of shape (tokens, inputs) in float32."""

    def extra_repr(self) -> str:
        """Returns the size, as `torch.nn.Linear` does."""
        return f"in_features={self.in_features}, out_features={self.out_features}"


def int8_linear(weight: torch.Tensor, bias: torch.Tensor | None, *, release: bool = False) -> Int8Linear:
    """Makes a layer of weights of shape (outputs, inputs); `release` frees their memory while rounding."""
    columns = column_scales([weight])
    return layer_of(*absmax(weight, columns, release=release), bias, columns)


def layer_of(
    rows: torch.Tensor, scales: torch.Tensor, bias: torch.Tensor | None, columns: torch.Tensor | None
) -> Int8Linear:
    """Makes a layer of integers and scales, with the fastest product that there is."""
    return (NativeInt8Linear if are_compiled() else OneDNNInt8Linear)(rows, scales, bias, columns)


class NativeInt8Linear(Int8Linear):
    """Multiplies with the compiled products; the integers stay as they are, so that an embedding may share them."""

    def __init__(
        self,
        rows: torch.Tensor,
        scales: torch.Tensor,
        bias: torch.Tensor | None,
        columns: torch.Tensor | None = None,
    ) -> None:
        super().__init__(rows, scales, bias, columns)
        self.rows = rows

    def multiply(self, tokens: torch.Tensor) -> torch.Tensor:
        """Returns the product; see `Int8Linear`."""
        return JointProduct([self.weights])(tokens)

    @property
    def weights(self) -> Weights:
        """The integers, their scales and the bias."""
        return Weights(self.rows, self.scales, self.bias, self.columns)


@dataclass(frozen=True, slots=True, eq=False)
class _Activations:
    """The representation of an activation by two integers: `coarse * base + fine`."""

    largest: int  # of each integer
    zero: int  # the zero point, if the integers are unsigned
    dtype: torch.dtype
    # A Python float would be converted to a tensor in each call, which takes as long as the product of one row.
    smallest_scale: torch.Tensor = field(default_factory=lambda: torch.tensor(1e-30))

    @property
    def base(self) -> int:
        """The step of the coarse integer."""
        return 2 * self.largest


_EIGHT_BITS = _Activations(127, 0, torch.int8)
_SEVEN_BITS = _Activations(63, 64, torch.uint8)


@functools.cache
def activations() -> _Activations:
    """Returns the widest representation whose products this processor sums without overflow.

    Processors without VNNI (before AVX-512 VNNI or AVX-VNNI) add two 8-bit products into 16 bits that saturate. There,
    unsigned 7-bit integers are exact, and several times as fast. Determined by a trial product.
    """
    weight = torch.full((32, 64), _LARGEST, dtype=torch.int8)
    scales, zeros = torch.ones(32), torch.zeros(32, dtype=torch.long)
    packed = torch.ops.onednn.qlinear_prepack(weight, None)
    for rows in (2, 64):  # computed by different kernels
        values = torch.full((rows, 64), _LARGEST, dtype=torch.int8)
        if not (_multiply(values, 0, packed, scales, zeros) == 64 * _LARGEST**2).all():
            return _SEVEN_BITS
    return _EIGHT_BITS


@functools.cache
def _operator() -> Any:
    return torch.ops.onednn.qlinear_pointwise.default  # the lookup takes as long as the product of a row


def _multiply(
    values: torch.Tensor, zero: int, packed: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor
) -> torch.Tensor:
    """Multiplies integers with packed weights; returns (rows, outputs) in float32."""
    product: torch.Tensor = _operator()(
        values, 1.0, zero, packed, scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )
    return product


class OneDNNInt8Linear(Int8Linear):
    """Multiplies with the products of torch's compiler, in the packed format of the processor's kernels.

    There, activations are two integers each: the second is the rounding error of the first.
    """

    def __init__(
        self,
        rows: torch.Tensor,
        scales: torch.Tensor,
        bias: torch.Tensor | None,
        columns: torch.Tensor | None = None,
    ) -> None:
        super().__init__(rows, scales, bias, columns)
        self._zeros = torch.zeros(self.out_features, dtype=torch.long)
        self._packed = torch.ops.onednn.qlinear_prepack(rows, None)
        self._kind = activations()
        self._coarser = torch.tensor(1 / self._kind.base)

    def multiply(self, tokens: torch.Tensor) -> torch.Tensor:
        """Returns the product; see `Int8Linear`."""
        kind = self._kind
        if self.columns is not None:
            tokens = tokens * self.columns
        largest = tokens.abs().amax(-1, keepdim=True)
        scales = torch.add(kind.smallest_scale, largest, alpha=1 / (kind.largest * kind.base))
        rounded = tokens.div(scales).round_()
        coarse = rounded.mul(self._coarser).round_()
        # The rounding error is a separate row. Weights are loaded once for both rows; loading them dominates the time.
        integers = torch.cat((coarse, rounded.sub_(coarse, alpha=kind.base)))
        if kind.zero:
            integers.add_(kind.zero)
        product = _multiply(integers.to(kind.dtype), kind.zero, self._packed, self.scales, self._zeros)
        coarse, fine = product.view(2, -1, self.out_features).unbind()
        total = fine.add_(coarse, alpha=kind.base)
        return total.mul_(scales) if self.bias is None else torch.addcmul(self.bias, total, scales)


class Int8Embedding(nn.Module):
    """An embedding with int8 weights; the result has the dtype of the original ones.

    Example:
        >>> Int8Embedding(*absmax(torch.tensor([[0.5, -1.0], [2.0, 0.0]])), dtype=torch.float32)(torch.tensor([1]))
        tensor([[2., 0.]])
    """

    def __init__(
        self, rows: torch.Tensor, scales: torch.Tensor, columns: torch.Tensor | None = None, *, dtype: torch.dtype
    ) -> None:
        """Takes integers of shape (tokens, width), and scales of shapes (tokens, 1) and (width,)."""
        super().__init__()
        # Empty: transformers takes a model's dtype from its parameters, and the others may all be packed.
        self.dtype_holder = nn.Parameter(torch.empty(0, dtype=dtype), requires_grad=False)
        self.rows, self.scales, self.columns = rows, scales, columns

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Returns the rows of ids, of shape (..., width)."""
        values = self.rows[ids] * self.scales[ids]
        return (values if self.columns is None else values * self.columns).to(self.dtype_holder.dtype)


def column_scales(matrices: Sequence[torch.Tensor]) -> torch.Tensor:
    """Returns a scale for each column of matrices with the same inputs, 1 in the median.

    It is the square root of a column's largest value relative to that of its row: dividing by all of it would make rows
    unequal instead. For SmolLM2-135M this leaves a quarter of what int8 costs in perplexity.

    Example:
        >>> column_scales([torch.tensor([[4.0, 1.0, 1.0], [0.0, 1.0, 1.0]])])
        tensor([1., 1., 1.])
        >>> column_scales([torch.tensor([[16.0, 1.0, 1.0], [8.0, 0.5, 0.0]])])
        tensor([4., 1., 1.])
    """
    largest = torch.zeros(matrices[0].shape[1])
    for matrix in matrices:
        for part in _row_parts(matrix):
            numbers = matrix[part].detach().float().abs()
            numbers.div_(numbers.amax(-1, keepdim=True).clamp_min_(torch.finfo(torch.float32).tiny))
            torch.maximum(largest, numbers.amax(0), out=largest)
    used = largest[largest > 0]
    return torch.where(largest > 0, (largest / used.median()).sqrt_(), 1.0) if len(used) else torch.ones_like(largest)


def _row_parts(matrix: torch.Tensor) -> Iterator[slice]:
    """Splits the rows of a matrix, so that only a part of it is copied at a time."""
    size = max(1, _AT_ONCE // matrix.shape[1])
    return (slice(start, start + size) for start in range(0, len(matrix), size))


def absmax(
    values: torch.Tensor, columns: torch.Tensor | None = None, *, release: bool = False
) -> tuple[torch.Tensor, torch.Tensor]:
    """Scales each row by its largest value: returns integers of shape (rows, columns), and scales of shape (rows, 1).

    Before, columns are divided by their scales, if given. With `release`, the memory of the values is freed meanwhile.
    Only a part of them is copied at a time.

    Example:
        >>> absmax(torch.tensor([[0.0, 1.0, -2.0]]))
        (tensor([[   0,   64, -127]], dtype=torch.int8), tensor([[0.0157]]))
    """
    values = values.detach()
    integers = torch.empty(values.shape, dtype=torch.int8)
    scales = torch.empty(len(values), 1)
    for part in _row_parts(values):
        numbers = values[part].float()
        if columns is not None:
            numbers = numbers / columns
        torch.amax(numbers.abs(), -1, keepdim=True, out=scales[part])
        scales[part].div_(_LARGEST).clamp_min_(torch.finfo(torch.float32).tiny)
        integers[part] = (numbers / scales[part]).round_()
        if release:
            release_memory(values[part])
    return integers, scales


def release_memory(values: torch.Tensor) -> None:
    """Returns the memory pages of a tensor that is no longer used to the system.

    transformers maps the weights file, so all pages that were read stay in memory while any weight is in use.
    """
    if sys.platform != "linux" or not values.is_contiguous():  # other tensors may use memory between its rows
        return
    begin = -(-values.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    length = (values.data_ptr() + values.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE - begin
    if length > 0:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), ctypes.c_size_t(length), mmap.MADV_DONTNEED)
