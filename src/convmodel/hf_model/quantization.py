"""8-bit weights for inference on CPUs: a quarter of the memory, and about a quarter of the time per token.

Owns: which weights are packed, how, and what can no longer be done with such a model. Each row of a weight and the
activations of each token are scaled to integers by their largest value (Dettmers et al. 2022, "LLM.int8()",
arXiv:2208.07339, section 2: absmax, vector-wise). Activations have single large values, beside which the others would
be lost; therefore the rounding error is a second row of integers. Products are sums of integers, which are exact: what
else is in a batch changes no result.
"""

import ctypes
import functools
import logging
import mmap
import sys
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from convmodel.errors import ConfigError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

QUANTIZATIONS = ("int8",)
"""What `from_pretrained(quantize=...)` knows."""

logger = logging.getLogger(__name__)

_LARGEST = 127  # of the integers that stand for weights
_ROWS = 4096  # rows of a matrix that are scaled at a time, since that needs as much memory again


@dataclass(frozen=True, slots=True, eq=False)
class _Activations:
    """How activations are written as two integers each: `coarse * base + fine`.

    Attributes:
        largest: Of each integer.
        zero: What is added to both, where they are unsigned.
        dtype: Theirs.
    """

    largest: int
    zero: int
    dtype: torch.dtype
    # A number would be made a tensor at every call, which takes as long as the product of one row.
    smallest_scale: torch.Tensor = field(default_factory=lambda: torch.tensor(1e-30))

    @property
    def base(self) -> int:
        """What the coarse integer counts."""
        return 2 * self.largest

    @property
    def steps(self) -> int:
        """Into how many steps the largest activation of a token is divided."""
        return self.largest * self.base


_EIGHT_BITS = _Activations(127, 0, torch.int8)
_SEVEN_BITS = _Activations(63, 64, torch.uint8)


@functools.cache
def activations() -> _Activations:
    """Chooses integers whose products this processor adds up without overflow.

    Processors without VNNI (before AVX-512 VNNI or AVX-VNNI) add two products of 8 bits into 16 bits that saturate.
    There unsigned integers of 7 bits are exact, and several times as fast. Measured by one product, not assumed.
    """
    weight = torch.full((32, 64), _LARGEST, dtype=torch.int8)
    scales, zeros = torch.ones(32), torch.zeros(32, dtype=torch.long)
    packed = torch.ops.onednn.qlinear_prepack(weight, None)
    for rows in (2, 64):  # for which different kernels are taken
        given = torch.full((rows, 64), _LARGEST, dtype=torch.int8)
        if not (_multiply(given, 0, packed, scales, zeros) == 64 * _LARGEST**2).all():
            return _SEVEN_BITS
    return _EIGHT_BITS


@functools.cache
def _operator() -> Any:
    return torch.ops.onednn.qlinear_pointwise.default  # looking it up takes as long as the product of a row


def _multiply(
    given: torch.Tensor, zero: int, packed: torch.Tensor, scales: torch.Tensor, zeros: torch.Tensor
) -> torch.Tensor:
    """Multiplies integers with packed weights: (rows, outputs) in float32."""
    made: torch.Tensor = _operator()(
        given, 1.0, zero, packed, scales, zeros, None, 1.0, 0, torch.float32, "none", [], ""
    )
    return made


class Int8Linear(nn.Module):
    """A linear layer whose weights are whole numbers, packed as the processor likes them.

    Example:
        >>> weight = torch.tensor([[0.5, -1.0], [2.0, 0.0]])
        >>> layer = Int8Linear(weight, torch.tensor([1.0, 0.0]))
        >>> layer(torch.tensor([[1.0, 1.0]])).round(decimals=1)
        tensor([[0.5000, 2.0000]])
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, *, release: bool = False) -> None:
        """Packs weights, (outputs, inputs); `release` gives their memory back meanwhile."""
        super().__init__()
        self.out_features, self.in_features = weight.shape
        rows, scales = absmax(weight.detach().float().contiguous(), release=release)  # packing reads them as they lie
        self._scales = scales[:, 0].contiguous()
        self._zeros = torch.zeros(self.out_features, dtype=torch.long)
        self._packed = torch.ops.onednn.qlinear_prepack(rows, None)
        self._kind = activations()
        self._coarser = torch.tensor(1 / self._kind.base)
        self.bias = None if bias is None else nn.Parameter(bias.detach().float().clone(), requires_grad=False)

    def forward(self, given: torch.Tensor) -> torch.Tensor:
        """Multiplies; activations of any leading shape, scaled token by token."""
        tokens = given if given.ndim == 2 else given.reshape(-1, self.in_features)
        tokens = tokens.float()
        kind = self._kind
        scales = torch.add(kind.smallest_scale, tokens.abs().amax(-1, keepdim=True), alpha=1 / kind.steps)
        whole = tokens.div(scales).round_()
        coarse = whole.mul(self._coarser).round_()
        # The rounding error is a row of its own. Weights, which are what takes time, are read once for both.
        integers = torch.cat((coarse, whole.sub_(coarse, alpha=kind.base)))
        if kind.zero:
            integers.add_(kind.zero)
        made = _multiply(integers.to(kind.dtype), kind.zero, self._packed, self._scales, self._zeros)
        coarse, fine = made.view(2, -1, self.out_features).unbind()
        total = fine.add_(coarse, alpha=kind.base)
        total = total.mul_(scales) if self.bias is None else torch.addcmul(self.bias, total, scales)
        return (total if given.ndim == 2 else total.view(*given.shape[:-1], self.out_features)).to(given.dtype)

    def extra_repr(self) -> str:
        """Says its size, as `torch.nn.Linear` does."""
        return f"in_features={self.in_features}, out_features={self.out_features}"


class Int8Embedding(nn.Module):
    """An embedding whose rows are whole numbers with a scale each.

    Example:
        >>> Int8Embedding(torch.tensor([[0.5, -1.0], [2.0, 0.0]]))(torch.tensor([1]))
        tensor([[2., 0.]])
    """

    def __init__(self, weight: torch.Tensor, *, release: bool = False) -> None:
        """Packs rows, (tokens, width); `release` gives their memory back meanwhile."""
        super().__init__()
        self._rows, self._scales = absmax(weight.detach().float(), release=release)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Looks rows up: (..., width)."""
        return self._rows[ids] * self._scales[ids]


def absmax(values: torch.Tensor, *, release: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Scales each row to whole numbers by its largest: (rows, columns) in int8, and (rows, 1) to multiply them with.

    With `release`, the memory of the values goes back meanwhile.

    Example:
        >>> absmax(torch.tensor([[0.0, 1.0, -2.0]]))
        (tensor([[   0,   64, -127]], dtype=torch.int8), tensor([[0.0157]]))
    """
    numbers = torch.empty(values.shape, dtype=torch.int8)
    scales = torch.empty(len(values), 1)
    for start in range(0, len(values), _ROWS):
        part = slice(start, start + _ROWS)
        torch.amax(values[part].abs(), -1, keepdim=True, out=scales[part])
        scales[part].div_(_LARGEST).clamp_min_(torch.finfo(torch.float32).tiny)
        numbers[part] = (values[part] / scales[part]).round_()
        if release:
            _release(values[part])
    return numbers, scales


def _release(values: torch.Tensor) -> None:
    """Gives the pages of a tensor that nobody reads any more back to the system.

    transformers maps a file of weights, so that what was read of it stays in memory as long as any weight is left.
    """
    if sys.platform != "linux" or not values.is_contiguous():  # between whose rows others' may lie
        return
    begin = -(-values.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    length = (values.data_ptr() + values.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE - begin
    if length > 0:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), ctypes.c_size_t(length), mmap.MADV_DONTNEED)


def quantize_weights(hf_model: "PreTrainedModel", quantize: str) -> None:
    """Packs a model's linear layers and its token embedding in place, one by one, so that memory never grows.

    The old weights are of no more use, also to those who hold them.

    Args:
        hf_model: The model, on the CPU.
        quantize: How; one of `QUANTIZATIONS`.

    Raises:
        ConfigError: If there is no such way, or the model is elsewhere.
    """
    if quantize not in QUANTIZATIONS:
        raise ConfigError(f"quantize is {quantize!r}: there is {', '.join(QUANTIZATIONS)}")
    if hf_model.device.type != "cpu":
        raise ConfigError(
            f"quantize={quantize!r} is for CPUs, but the model is on {hf_model.device}: leave it out there"
        )
    before = _nbytes(hf_model)
    embedding: Any = hf_model.get_input_embeddings()
    users = Counter(weight.data_ptr() for _, weight in hf_model.named_parameters(remove_duplicate=False))
    # The embedding and the head, which may be its, come first: both are large, and there is little else yet.
    names = sorted(
        (name for name, _ in hf_model.named_modules()), key=lambda name: -_size(hf_model.get_submodule(name))
    )
    for name in names:
        module: Any = hf_model.get_submodule(name)
        weight = getattr(module, "weight", None)
        if weight is None:
            continue
        packed = _packed(module, is_embedding=module is embedding, release=users[weight.data_ptr()] == 1)
        if packed is not None:
            users[weight.data_ptr()] -= 1
            hf_model.set_submodule(name, packed.eval())
    left = _nbytes(hf_model)
    logger.info("packed %.0f of %.0f MiB of weights as %s", (before - left) / 2**20, before / 2**20, quantize)


def is_quantized(hf_model: "PreTrainedModel") -> bool:
    """Tells whether weights were packed, so that a model can no longer learn or be saved."""
    return any(isinstance(module, Int8Linear | Int8Embedding) for module in hf_model.modules())


def require_unquantized(hf_model: "PreTrainedModel", what: str) -> None:
    """Checks that a model has the weights that it was saved with.

    Raises:
        ConfigError: If they were packed.
    """
    if is_quantized(hf_model):
        raise ConfigError(f"a quantised model cannot be {what}: load it without quantize")


def _packed(module: nn.Module, *, is_embedding: bool, release: bool) -> nn.Module | None:
    """Packs a layer whose product is nothing but that; subclasses may compute something else."""
    if type(module) is nn.Linear:
        return Int8Linear(module.weight, module.bias, release=release)
    if isinstance(module, Conv1D):  # which keeps its weights the other way round
        packed = Int8Linear(module.weight.t(), module.bias)
        if release:
            _release(module.weight)
        return packed
    if is_embedding and type(module) is nn.Embedding:
        return Int8Embedding(module.weight, release=release)
    return None


def _size(module: nn.Module) -> int:
    weight = getattr(module, "weight", None)
    return 0 if weight is None else int(weight.nbytes)


def _nbytes(hf_model: "PreTrainedModel") -> int:
    return sum(weight.nbytes for weight in hf_model.parameters())
