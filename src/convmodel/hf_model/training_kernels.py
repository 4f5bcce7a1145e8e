"""Compiled kernels for training on a CPU: attention of packed windows, RMS norms and gated activations.

Owns: calling `_training_kernels.c` in `torch.autograd.Function`s, and its description of heads. Activations are float32
or bfloat16; sums are float32 in both cases. Where it was not compiled, transformers' own modules are used.
"""

import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from convmodel.hf_model.kernels import address

try:
    from convmodel.hf_model import _training_kernels
except ImportError:
    _training_kernels = None  # type: ignore[assignment]

native = _training_kernels
"""The compiled module; None without it."""

DTYPES = (torch.float32, torch.bfloat16)
"""The dtypes of activations."""


class Activation(IntEnum):
    """The activation function of a gated linear unit; GELU is its tanh approximation."""

    SILU = 0
    GELU = 1


@dataclass(frozen=True, slots=True)
class Heads:
    """The heads of attention.

    Attributes:
        count: The number of query heads.
        kv_count: The number of key/value heads; with fewer of them than query heads, each is shared by several.
        size: The length of a head.
        scale: The multiplier of the scores.
        sliding_window: How many tokens, its own included, a token attends to; None for all.
        cap: Scores are softly limited to this, which has no backward pass here; None for no limit.
    """

    count: int
    kv_count: int
    size: int
    scale: float
    sliding_window: int | None = None
    cap: float | None = None

    def pack(self, strides: Sequence[int], head_strides: Sequence[int], *, rotated: int, is_bf16: bool) -> bytes:
        """Returns the description that the kernel reads.

        The strides of queries, keys, values and results are the numbers of values between two tokens, and two heads.
        """
        numbers = (self.count, self.kv_count, self.size, rotated, *strides, *head_strides)
        return struct.pack("14q2d", *numbers, is_bf16, self.sliding_window or 0, self.scale, self.cap or 0.0)


class Windows:
    """Where the windows of a batch begin, which lie end to end: a token attends to its own window only.

    Example:
        >>> Windows([3, 2]).bounds
        tensor([[0, 3],
                [3, 2]])
    """

    def __init__(self, lengths: Sequence[int]) -> None:
        """Takes the lengths of the windows, which lie end to end."""
        sizes = torch.tensor(lengths)
        self.bounds = torch.stack([sizes.cumsum(0) - sizes, sizes], dim=1)
        self.pairs = self.bounds.repeat(1, 2)  # of queries, and of keys and values: the same tokens
        self.longest, self.tokens = max(lengths), sum(lengths)

    @classmethod
    def of(cls, positions: torch.Tensor) -> "Windows":
        """Finds the windows by positions of shape (rows, tokens).

        One begins in each row, and wherever a position is not the previous one plus 1.

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


def attend(qkv: torch.Tensor, rotation: Rotation | None, heads: Heads, windows: Windows) -> torch.Tensor:
    """Computes causal attention within each window; differentiable.

    Rotary embeddings (Su et al. 2021, arXiv:2104.09864) pair the halves of a head, as `rotate_half` of transformers
    does. The backward pass needs only the logsumexp of each query's scores (Dao et al. 2022, arXiv:2205.14135).

    Args:
        qkv: Queries, keys and values, concatenated: shape (tokens, (query heads + 2 * key/value heads) * size).
        rotation: The rotary embedding of queries and keys, if any.
        heads: The heads in `qkv`.
        windows: The windows of all tokens.

    Returns:
        Shape (tokens, heads * size).

    Raises:
        ValueError: If the lengths of the windows do not add up to the number of tokens.

    Example:
        >>> qkv = torch.tensor([[1.0, 1.0, 5.0], [1.0, 1.0, 7.0]])  # of one head of size 1
        >>> attend(qkv, None, Heads(1, 1, 1, scale=1.0), Windows([2]))
        tensor([[5.],
                [6.]])
    """
    if len(qkv) != windows.tokens or (rotation is not None and len(rotation[0]) != windows.tokens):
        raise ValueError(f"there are {len(qkv)} tokens, but windows of {windows.tokens}")
    compute: Callable[..., torch.Tensor] = _Attention.apply
    return compute(qkv, rotation, heads, windows)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: torch.Tensor, rotation: Rotation | None, heads: Heads, windows: Windows) -> torch.Tensor:
        qkv = qkv.contiguous()
        result = qkv.new_empty(len(qkv), heads.count * heads.size)
        log_sums = torch.empty(len(qkv), heads.count)
        ctx.plan = rotation, heads, windows
        _call_attend(ctx.plan, qkv, result, log_sums)
        ctx.save_for_backward(qkv, result, log_sums)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        qkv, result, log_sums = ctx.saved_tensors
        grad_qkv = torch.empty_like(qkv)
        _call_attend(ctx.plan, qkv, result, log_sums, gradients[0].contiguous(), grad_qkv)
        return grad_qkv, None, None, None


def _call_attend(
    plan: tuple[Rotation | None, Heads, Windows],
    qkv: torch.Tensor,
    result: torch.Tensor,
    log_sums: torch.Tensor,
    grad_result: torch.Tensor | None = None,
    grad_qkv: torch.Tensor | None = None,
) -> None:
    rotation, heads, windows = plan
    width = qkv.shape[1]
    cos, sin = rotation or (None, None)
    rotated = 0 if cos is None else cos.shape[1]
    strides = (width, width, width, heads.count * heads.size)
    native.attend(
        heads.pack(strides, (heads.size,) * 4, rotated=rotated, is_bf16=_is_bf16(qkv)),
        *_parts(qkv, heads),
        address(cos),
        address(sin),
        result.data_ptr(),
        log_sums.data_ptr(),
        address(grad_result),
        *_parts(grad_qkv, heads),
        windows.pairs.data_ptr(),
        len(windows.pairs),
        windows.longest,
        torch.get_num_threads(),
    )


def _parts(qkv: torch.Tensor | None, heads: Heads) -> tuple[int, int, int]:
    """Returns the addresses of the first query, key and value."""
    if qkv is None:
        return 0, 0, 0
    address, size = qkv.data_ptr(), heads.size * qkv.element_size()
    return address, address + heads.count * size, address + (heads.count + heads.kv_count) * size


def rms_norm(states: torch.Tensor, weights: torch.Tensor, epsilon: float, dtype: torch.dtype) -> torch.Tensor:
    """Divides rows of float32 by their root mean square, and multiplies them by weights; differentiable.

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
        blocks = -(-len(states) // native.ROWS)  # of rows, each with its part of the gradient with respect to weights
        grad_states, grad_weights = torch.empty_like(states), torch.zeros(blocks, states.shape[1])
        _call_norm(0.0, states, weights, factors, gradients[0].contiguous(), grad_states, grad_weights)
        return grad_states, grad_weights.sum(0) if ctx.needs_input_grad[1] else None, None, None


def _call_norm(
    epsilon: float,
    states: torch.Tensor,
    weights: torch.Tensor,
    factors: torch.Tensor,
    grad_result: torch.Tensor | None,
    result: torch.Tensor,
    grad_weights: torch.Tensor | None,
) -> None:
    native.norm(
        epsilon,
        states.data_ptr(),
        weights.data_ptr(),
        factors.data_ptr(),
        address(grad_result),
        result.data_ptr(),
        address(grad_weights),
        len(states),
        states.shape[1],
        _is_bf16(result if grad_result is None else grad_result),
        torch.get_num_threads(),
    )


def glu(gate_up: torch.Tensor, activation: Activation) -> torch.Tensor:
    """Applies an activation function to the first half of each row, and multiplies by the second; differentiable.

    Shazeer 2020, arXiv:2002.05202.

    Args:
        gate_up: Gate and up projection, concatenated: shape (rows, 2 * width).
        activation: The activation function.

    Returns:
        Shape (rows, width).

    Example:
        >>> glu(torch.tensor([[0.0, 100.0, 1.0, 2.0]]), Activation.SILU)
        tensor([[  0., 200.]])
    """
    compute: Callable[..., torch.Tensor] = _Glu.apply
    return compute(gate_up, activation)


class _Glu(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_up: torch.Tensor, activation: Activation) -> torch.Tensor:
        gate_up = gate_up.contiguous()
        result = gate_up.new_empty(len(gate_up), gate_up.shape[1] // 2)
        _call_glu(gate_up, None, result, activation)
        ctx.save_for_backward(gate_up)
        ctx.activation = activation
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        [gate_up] = ctx.saved_tensors
        grad_gate_up = torch.empty_like(gate_up)
        _call_glu(gate_up, gradients[0].contiguous(), grad_gate_up, ctx.activation)
        return grad_gate_up, None


def _call_glu(
    gate_up: torch.Tensor, grad_result: torch.Tensor | None, result: torch.Tensor, activation: Activation
) -> None:
    native.gate(
        gate_up.data_ptr(),
        address(grad_result),
        result.data_ptr(),
        len(gate_up),
        gate_up.shape[1] // 2,
        _is_bf16(gate_up),
        activation,
        torch.get_num_threads(),
    )


def _is_bf16(tensor: torch.Tensor) -> bool:
    if tensor.dtype not in DTYPES:
        raise ValueError(f"activations are {tensor.dtype}, not float32 or bfloat16")
    return tensor.dtype == torch.bfloat16
