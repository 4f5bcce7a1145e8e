"""8-bit weights for inference on CPUs: a quarter of the memory, and about a quarter of the time per token.

Owns: which weights are quantized, how, and refusing to train or save such a model. Each row of a weight and the
activations of each token are scaled to integers by their largest value (Dettmers et al. 2022, "LLM.int8()",
arXiv:2208.07339, section 2: absmax, vector-wise). Activations have outliers, which would round the other values to
zero; therefore the rounding error is stored as a second row of integers. Integer sums are exact, so results do not
depend on the rest of the batch.
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
"""Values of `from_pretrained(quantize=...)`."""

logger = logging.getLogger(__name__)

_LARGEST = 127  # largest integer of a weight
_ROWS = 4096  # rows of a matrix that are scaled at a time, because scaling needs a copy of them


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


class Int8Linear(nn.Module):
    """A linear layer with int8 weights in the packed format of the processor's kernels.

    Example:
        >>> weight = torch.tensor([[0.5, -1.0], [2.0, 0.0]])
        >>> layer = Int8Linear(weight, torch.tensor([1.0, 0.0]))
        >>> layer(torch.tensor([[1.0, 1.0]])).round(decimals=1)
        tensor([[0.5000, 2.0000]])
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None, *, release: bool = False) -> None:
        """Packs weights of shape (outputs, inputs); `release` frees their memory while packing."""
        super().__init__()
        self.out_features, self.in_features = weight.shape
        rows, scales = absmax(weight.detach().float().contiguous(), release=release)  # packing ignores strides
        self._scales = scales[:, 0].contiguous()
        self._zeros = torch.zeros(self.out_features, dtype=torch.long)
        self._packed = torch.ops.onednn.qlinear_prepack(rows, None)
        self._kind = activations()
        self._coarser = torch.tensor(1 / self._kind.base)
        self.bias = None if bias is None else nn.Parameter(bias.detach().float().clone(), requires_grad=False)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        """Applies the layer to activations of shape (..., inputs), scaled per token."""
        tokens = states if states.ndim == 2 else states.reshape(-1, self.in_features)
        tokens = tokens.float()
        kind = self._kind
        largest = tokens.abs().amax(-1, keepdim=True)
        scales = torch.add(kind.smallest_scale, largest, alpha=1 / (kind.largest * kind.base))
        rounded = tokens.div(scales).round_()
        coarse = rounded.mul(self._coarser).round_()
        # The rounding error is a separate row. Weights are loaded once for both rows; loading them dominates the time.
        integers = torch.cat((coarse, rounded.sub_(coarse, alpha=kind.base)))
        if kind.zero:
            integers.add_(kind.zero)
        product = _multiply(integers.to(kind.dtype), kind.zero, self._packed, self._scales, self._zeros)
        coarse, fine = product.view(2, -1, self.out_features).unbind()
        total = fine.add_(coarse, alpha=kind.base)
        total = total.mul_(scales) if self.bias is None else torch.addcmul(self.bias, total, scales)
        return (total if states.ndim == 2 else total.view(*states.shape[:-1], self.out_features)).to(states.dtype)

    def extra_repr(self) -> str:
        """Returns the size, as `torch.nn.Linear` does."""
        return f"in_features={self.in_features}, out_features={self.out_features}"


class Int8Embedding(nn.Module):
    """An embedding with int8 rows and a scale per row.

    Example:
        >>> Int8Embedding(torch.tensor([[0.5, -1.0], [2.0, 0.0]]))(torch.tensor([1]))
        tensor([[2., 0.]])
    """

    def __init__(self, weight: torch.Tensor, *, release: bool = False) -> None:
        """Packs rows of shape (tokens, width); `release` frees their memory while packing."""
        super().__init__()
        self._rows, self._scales = absmax(weight.detach().float(), release=release)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Returns the rows of ids, of shape (..., width)."""
        return self._rows[ids] * self._scales[ids]


def absmax(values: torch.Tensor, *, release: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
    """Scales each row by its largest value: returns integers of shape (rows, columns), and scales of shape (rows, 1).

    With `release`, the memory of the values is freed meanwhile.

    Example:
        >>> absmax(torch.tensor([[0.0, 1.0, -2.0]]))
        (tensor([[   0,   64, -127]], dtype=torch.int8), tensor([[0.0157]]))
    """
    integers = torch.empty(values.shape, dtype=torch.int8)
    scales = torch.empty(len(values), 1)
    for start in range(0, len(values), _ROWS):
        part = slice(start, start + _ROWS)
        torch.amax(values[part].abs(), -1, keepdim=True, out=scales[part])
        scales[part].div_(_LARGEST).clamp_min_(torch.finfo(torch.float32).tiny)
        integers[part] = (values[part] / scales[part]).round_()
        if release:
            _release(values[part])
    return integers, scales


def _release(values: torch.Tensor) -> None:
    """Returns the memory pages of a tensor that is no longer used to the system.

    transformers maps the weights file, so all pages that were read stay in memory while any weight is in use.
    """
    if sys.platform != "linux" or not values.is_contiguous():  # other tensors may use memory between its rows
        return
    begin = -(-values.data_ptr() // mmap.PAGESIZE) * mmap.PAGESIZE
    length = (values.data_ptr() + values.nbytes) // mmap.PAGESIZE * mmap.PAGESIZE - begin
    if length > 0:
        ctypes.CDLL(None).madvise(ctypes.c_void_p(begin), ctypes.c_size_t(length), mmap.MADV_DONTNEED)


def quantize_weights(hf_model: "PreTrainedModel", quantize: str) -> None:
    """Packs a model's linear layers and token embedding in place, one by one, so that memory does not grow.

    The original weights become invalid, also for other references to them.

    Raises:
        ConfigError: If `quantize` is not in `QUANTIZATIONS`, or the model is not on the CPU.
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
    weights = ((name, getattr(module, "weight", None)) for name, module in hf_model.named_modules())
    sizes = {name: weight.nbytes for name, weight in weights if weight is not None}
    # The embedding and the head, which may be tied, come first: both are large, and packing needs memory.
    for name in sorted(sizes, key=lambda name: -sizes[name]):
        module: Any = hf_model.get_submodule(name)
        address = module.weight.data_ptr()
        packed = _packed(module, is_embedding=module is embedding, release=users[address] == 1)
        if packed is not None:
            users[address] -= 1
            hf_model.set_submodule(name, packed.eval())
    left = _nbytes(hf_model)
    logger.info("packed %.0f of %.0f MiB of weights as %s", (before - left) / 2**20, before / 2**20, quantize)


def is_quantized(hf_model: "PreTrainedModel") -> bool:
    """Returns whether weights were packed, so that the model can no longer be trained or saved."""
    return any(isinstance(module, Int8Linear | Int8Embedding) for module in hf_model.modules())


def require_unquantized(hf_model: "PreTrainedModel", what: str) -> None:
    """Raises a `ConfigError` for a quantized model."""
    if is_quantized(hf_model):
        raise ConfigError(f"a quantized model cannot be {what}: load it without quantize")


def _packed(module: nn.Module, *, is_embedding: bool, release: bool) -> nn.Module | None:
    """Packs a linear layer or the embedding; not their subclasses, which may compute something else."""
    if type(module) is nn.Linear:
        return Int8Linear(module.weight, module.bias, release=release)
    if isinstance(module, Conv1D):  # its weights are transposed
        packed = Int8Linear(module.weight.t(), module.bias)
        if release:
            _release(module.weight)
        return packed
    if is_embedding and type(module) is nn.Embedding:
        return Int8Embedding(module.weight, release=release)
    return None


def _nbytes(hf_model: "PreTrainedModel") -> int:
    return sum(weight.nbytes for weight in hf_model.parameters())
