"""Layers with int8 weights, for inference on CPUs, and as the frozen base of adapters.

Owns: their products in inference; `int8_matrix` has those of training, and `int8_rounding` how weights are rounded. The
activations of each token are scaled to integers by their largest value (Dettmers et al. 2022, "LLM.int8()",
arXiv:2208.07339, section 2: absmax, vector-wise). They have outliers, which would round the other values to zero in 8
bits; therefore they have about 15. Integer sums are exact, so results do not depend on the rest of the batch.
"""

import functools
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import nn

from convmodel.hf_model.int8_matrix import Int8Matrix, multiply
from convmodel.hf_model.int8_rounding import LARGEST, absmax, column_scales
from convmodel.hf_model.joint_product import JointProduct, Weights
from convmodel.hf_model.kernels import are_compiled


class Int8Linear(nn.Module, ABC):
    """A linear layer with int8 weights.

    Attributes:
        is_transposed: Whether the layer replaces a `Conv1D`, whose weight is (inputs, outputs).

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
        self.is_transposed = False
        self.exactness: list[bool] = []  # of the blocks of `exact_products` that are entered; the last one counts

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Applies the layer to activations of shape (..., inputs), scaled per token."""
        if (self.exactness and self.exactness[-1]) or (states.requires_grad and torch.is_grad_enabled()):
            return self._product_of_values(states)
        product = self.multiply(states.reshape(-1, self.in_features).float())
        return product.view(*states.shape[:-1], self.out_features).to(states.dtype)

    def _product_of_values(self, states: torch.Tensor) -> torch.Tensor:
        """Computes what a linear layer with the de-quantized weights does, under autocast as well."""
        dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else states.dtype
        product = multiply(states.reshape(-1, self.in_features).to(dtype), [self])
        product = product if self.bias is None else product + self.bias.to(dtype)
        return product.view(*states.shape[:-1], self.out_features)

    @property
    def size(self) -> int:
        """The number of weights."""
        return self.out_features * self.in_features

    @abstractmethod
    def multiply(self, tokens: torch.Tensor) -> torch.Tensor:
        """Returns the product with activations of shape (tokens, inputs) in float32."""

    @property
    @abstractmethod
    def matrix(self) -> Int8Matrix:
        """The integers and their scales."""

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

    @property
    def matrix(self) -> Int8Matrix:
        """The integers and their scales."""
        return Int8Matrix(self.rows, self.scales[:, None], self.columns)


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
    weight = torch.full((32, 64), LARGEST, dtype=torch.int8)
    scales, zeros = torch.ones(32), torch.zeros(32, dtype=torch.long)
    packed = torch.ops.onednn.qlinear_prepack(weight, None)
    for rows in (2, 64):  # computed by different kernels
        values = torch.full((rows, 64), LARGEST, dtype=torch.int8)
        if not (_multiply(values, 0, packed, scales, zeros) == 64 * LARGEST**2).all():
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

    @property
    def matrix(self) -> Int8Matrix:
        """The integers, unpacked into a copy, and their scales."""
        return Int8Matrix(self._packed.to_dense().t(), self.scales[:, None], self.columns)


class Int8Embedding(nn.Module):
    """An embedding with int8 weights; the result has the dtype of the original ones.

    Example:
        >>> Int8Embedding(*absmax(torch.tensor([[0.5, -1.0], [2.0, 0.0]])), dtype=torch.float32)(torch.tensor([1]))
        tensor([[2., 0.]])
    """

    def __init__(
        self,
        rows: torch.Tensor,
        scales: torch.Tensor,
        columns: torch.Tensor | None = None,
        *,
        dtype: torch.dtype,
        factor: float = 1.0,
    ) -> None:
        """Takes integers of shape (tokens, width), scales of shapes (tokens, 1) and (width,), and a factor."""
        super().__init__()
        # Empty: transformers takes a model's dtype from its parameters, and the others may all be packed.
        self.dtype_holder = nn.Parameter(torch.empty(0, dtype=dtype), requires_grad=False)
        self.rows, self.scales, self.columns, self.factor = rows, scales, columns, factor

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Returns the rows of ids, of shape (..., width)."""
        values = self.rows[ids] * self.scales[ids]
        return self.scaled(values if self.columns is None else values * self.columns)

    def scaled(self, values: torch.Tensor) -> torch.Tensor:
        """Returns the values of rows as the layer returns them."""
        return (values if self.factor == 1 else values * self.factor).to(self.dtype_holder.dtype)

    @property
    def size(self) -> int:
        """The number of weights."""
        return self.rows.numel()

    @property
    def matrix(self) -> Int8Matrix:
        """The integers and their scales."""
        return Int8Matrix(self.rows, self.scales, self.columns)


@contextmanager
def exact_products(model: nn.Module, enabled: bool = True) -> Iterator[None]:
    """Makes int8 layers compute with de-quantized weights inside the block, or as in inference if not enabled."""
    layers = [module for module in model.modules() if isinstance(module, Int8Linear)]
    for layer in layers:
        layer.exactness.append(enabled)
    try:
        yield
    finally:
        for layer in layers:  # blocks of several threads may overlap
            layer.exactness.reverse()
            layer.exactness.remove(enabled)
            layer.exactness.reverse()


def count_rows(layer: Any) -> int:
    """Returns how many tokens an embedding or a head has, packed or not, also if single rows of it are trained."""
    adapter = getattr(layer, "token_adapter", None)
    base = layer if adapter is None else adapter.get_base_layer()
    return len(base.scales) if isinstance(base, Int8Linear | Int8Embedding) else int(base.weight.shape[0])
