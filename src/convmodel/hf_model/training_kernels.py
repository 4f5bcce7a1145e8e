"""Compiled kernels for training on a CPU: attention within windows, norms and gated activations, with their gradients.

Owns: calling `_training_kernels.c`, as functions that autograd knows. Activations are float32 or bfloat16; sums are
float32 in both cases. An installation without a compiler lacks it, and then transformers' own modules are trained.
"""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import torch
from torch.autograd.function import once_differentiable

try:
    from convmodel.hf_model import _training_kernels as native
except ImportError:
    native = None  # type: ignore[assignment]

DTYPES = (torch.float32, torch.bfloat16)
"""The dtypes of activations."""


class Gate(IntEnum):
    """A gated activation function; GELU is its tanh approximation."""

    SILU = 0
    GELU = 1


@dataclass(frozen=True, slots=True)
class Heads:
    """How attention is divided into heads.

    Attributes:
        count: The number of query heads.
        shared: The number of key/value heads; with fewer of them than query heads, each is shared by several.
        size: The length of a head.
        scale: Scores are multiplied by it.
        span: How many tokens, its own included, a token attends to; None for all.
    """

    count: int
    shared: int
    size: int
    scale: float
    span: int | None = None


class Windows:
    """The windows of a batch: tokens attend to those before them in their own window only.

    Example:
        >>> Windows([3, 2]).bounds
        tensor([[0, 3],
                [3, 2]])
    """

    def __init__(self, lengths: Sequence[int]) -> None:
        """Takes the lengths of the windows, which lie end to end."""
        sizes = torch.tensor(lengths)
        self.bounds = torch.stack([sizes.cumsum(0) - sizes, sizes], dim=1)
        self.longest, self.tokens = max(lengths), sum(lengths)

    @classmethod
    def of(cls, positions: torch.Tensor) -> "Windows":
        """Finds the windows of rows of positions, (rows, tokens): one begins where a position does not follow the last.

        Example:
            >>> Windows.of(torch.tensor([[0, 1, 2], [0, 1, 0]])).bounds
            tensor([[0, 3],
                    [3, 2],
                    [5, 1]])
        """
        flat = positions.flatten()
        is_first = flat[1:] != flat[:-1] + 1
        is_first[positions.shape[1] - 1 :: positions.shape[1]] = True  # each row begins one
        begins = torch.cat([torch.zeros(1, dtype=torch.long), is_first.nonzero().flatten() + 1])
        lengths: list[int] = torch.diff(begins, append=torch.tensor([len(flat)])).tolist()
        return cls(lengths)


Rotation = tuple[torch.Tensor, torch.Tensor]
"""Cosines and sines of each token, each of shape (tokens, rotated part of a head), float32."""


def are_compiled() -> bool:
    """Returns whether this installation has the compiled kernels."""
    return native is not None


def attend(joined: torch.Tensor, rotation: Rotation | None, heads: Heads, windows: Windows) -> torch.Tensor:
    """Attends within windows, to queries, keys and values side by side; differentiable.

    Su et al. 2021, arXiv:2104.09864, for the rotation, with halves in place of neighbours as pairs; Dao et al. 2022,
    arXiv:2205.14135, for the gradients, which need the logarithm of the sum of each query's exponentials only.

    Args:
        joined: Shape (tokens, (heads + 2 * shared heads) * size).
        rotation: The rotary embedding of queries and keys, if any.
        heads: How `joined` is divided.
        windows: The windows of all tokens.

    Returns:
        Shape (tokens, heads * size).

    Raises:
        ValueError: If the windows are not those of all tokens.

    Example:
        >>> joined = torch.tensor([[1.0, 1.0, 5.0], [1.0, 1.0, 7.0]])  # of one head of size 1
        >>> attend(joined, None, Heads(1, 1, 1, scale=1.0), Windows([2]))
        tensor([[5.],
                [6.]])
    """
    if len(joined) != windows.tokens or (rotation is not None and len(rotation[0]) != windows.tokens):
        raise ValueError(f"there are {len(joined)} tokens, but windows of {windows.tokens}")
    compute: Callable[..., torch.Tensor] = _Attention.apply
    return compute(joined, rotation, heads, windows)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, joined: torch.Tensor, rotation: Rotation | None, heads: Heads, windows: Windows
    ) -> torch.Tensor:
        joined = joined.contiguous()
        result = joined.new_empty(len(joined), heads.count * heads.size)
        log_sums = torch.empty(len(joined), heads.count)
        ctx.plan = rotation, heads, windows
        _call_attend(ctx.plan, joined, result, log_sums)
        ctx.save_for_backward(joined, result, log_sums)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        joined, result, log_sums = ctx.saved_tensors
        by_joined = torch.empty_like(joined)
        _call_attend(ctx.plan, joined, result, log_sums, gradients[0].contiguous(), by_joined)
        return by_joined, None, None, None


def _call_attend(
    plan: tuple[Rotation | None, Heads, Windows],
    joined: torch.Tensor,
    result: torch.Tensor,
    log_sums: torch.Tensor,
    by_result: torch.Tensor | None = None,
    by_joined: torch.Tensor | None = None,
) -> None:
    rotation, heads, windows = plan
    width = joined.shape[1]
    cos, sin = rotation or (None, None)
    rotated = 0 if cos is None else cos.shape[1]
    numbers = (heads.count, heads.shared, heads.size, rotated, width, width, width, heads.count * heads.size)
    kind = struct.pack("10qd", *numbers, _is_half(joined), heads.span or 0, heads.scale)
    native.attend(
        kind,
        *_parts(joined, heads),
        _address(cos),
        _address(sin),
        result.data_ptr(),
        log_sums.data_ptr(),
        _address(by_result),
        *_parts(by_joined, heads),
        windows.bounds.data_ptr(),
        len(windows.bounds),
        windows.longest,
        torch.get_num_threads(),
    )


def _parts(joined: torch.Tensor | None, heads: Heads) -> tuple[int, int, int]:
    """Returns the addresses of the first query, key and value."""
    if joined is None:
        return 0, 0, 0
    address, size = joined.data_ptr(), heads.size * joined.element_size()
    return address, address + heads.count * size, address + (heads.count + heads.shared) * size


def rms_norm(states: torch.Tensor, weights: torch.Tensor, epsilon: float, dtype: torch.dtype) -> torch.Tensor:
    """Divides rows of float32 by their root mean square, and multiplies them with weights; differentiable.

    Zhang and Sennrich 2019, arXiv:1910.07467.

    Args:
        states: Shape (rows, width), float32.
        weights: Shape (width,), float32.
        epsilon: Added to the mean of squares.
        dtype: Of the result.

    Example:
        >>> rms_norm(torch.tensor([[3.0, 3.0]]), torch.tensor([1.0, 2.0]), 0.0, torch.float32)
        tensor([[1., 2.]])
    """
    compute: Callable[..., torch.Tensor] = _RmsNorm.apply
    return compute(states, weights, epsilon, dtype)


_ROWS = 16  # that a thread takes together; each such block has its part of the gradient by the weights


class _RmsNorm(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, states: torch.Tensor, weights: torch.Tensor, epsilon: float, dtype: torch.dtype
    ) -> torch.Tensor:
        states, weights = states.contiguous(), weights.contiguous()
        result, factors = torch.empty(states.shape, dtype=dtype), torch.empty(len(states))
        _call_norm(epsilon, states, weights, factors, None, result, None)
        ctx.save_for_backward(states, weights, factors)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        states, weights, factors = ctx.saved_tensors
        by_states, by_weights = torch.empty_like(states), torch.zeros(-(-len(states) // _ROWS), states.shape[1])
        _call_norm(0.0, states, weights, factors, gradients[0].contiguous(), by_states, by_weights)
        return by_states, by_weights.sum(0) if ctx.needs_input_grad[1] else None, None, None


def _call_norm(
    epsilon: float,
    states: torch.Tensor,
    weights: torch.Tensor,
    factors: torch.Tensor,
    by_result: torch.Tensor | None,
    result: torch.Tensor,
    by_weights: torch.Tensor | None,
) -> None:
    native.norm(
        epsilon,
        states.data_ptr(),
        weights.data_ptr(),
        factors.data_ptr(),
        _address(by_result),
        result.data_ptr(),
        _address(by_weights),
        len(states),
        states.shape[1],
        _is_half(result if by_result is None else by_result),
        torch.get_num_threads(),
    )


def gated(joined: torch.Tensor, gate: Gate) -> torch.Tensor:
    """Applies an activation function to the first half of each row, and multiplies it by the second; differentiable.

    Shazeer 2020, arXiv:2002.05202.

    Args:
        joined: Shape (rows, 2 * width).
        gate: The activation function.

    Returns:
        Shape (rows, width).

    Example:
        >>> gated(torch.tensor([[0.0, 100.0, 1.0, 2.0]]), Gate.SILU)
        tensor([[  0., 200.]])
    """
    compute: Callable[..., torch.Tensor] = _Gated.apply
    return compute(joined, gate)


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, joined: torch.Tensor, gate: Gate) -> torch.Tensor:
        joined = joined.contiguous()
        result = joined.new_empty(len(joined), joined.shape[1] // 2)
        _call_gate(joined, None, result, gate)
        ctx.save_for_backward(joined)
        ctx.gate = gate
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        [joined] = ctx.saved_tensors
        by_joined = torch.empty_like(joined)
        _call_gate(joined, gradients[0].contiguous(), by_joined, ctx.gate)
        return by_joined, None


def _call_gate(joined: torch.Tensor, by_result: torch.Tensor | None, result: torch.Tensor, gate: Gate) -> None:
    rows, width = len(joined), joined.shape[1] // 2
    threads = torch.get_num_threads()
    native.gate(joined.data_ptr(), _address(by_result), result.data_ptr(), rows, width, _is_half(joined), gate, threads)


def _is_half(tensor: torch.Tensor) -> bool:
    if tensor.dtype not in DTYPES:
        raise ValueError(f"activations are {tensor.dtype}, not float32 or bfloat16")
    return tensor.dtype == torch.bfloat16


def _address(tensor: torch.Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()
