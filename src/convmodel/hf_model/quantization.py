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
from convmodel.hf_model.eval_mode import evaluation_mode

if TYPE_CHECKING:
    from transformers import PreTrainedModel

QUANTIZATIONS = ("int8",)
"""Values of `from_pretrained(quantize=...)`."""

logger = logging.getLogger(__name__)

_LARGEST = 127  # largest integer of a weight
_TRIAL_ROWS = 64  # rows of an embedding that are looked up to see what it does to them
_ROUNDING = 0.01  # more than that of bfloat16
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
    """An embedding with int8 rows and a scale per row; the result has the dtype of the original weight.

    Example:
        >>> Int8Embedding(torch.tensor([[0.5, -1.0], [2.0, 0.0]]))(torch.tensor([1]))
        tensor([[2., 0.]])
    """

    def __init__(self, weight: torch.Tensor, *, factor: float = 1.0, release: bool = False) -> None:
        """Packs rows of shape (tokens, width), each multiplied by `factor`; `release` frees their memory meanwhile."""
        super().__init__()
        # Empty: transformers takes a model's dtype from its parameters, and the others may all be packed.
        self.dtype_holder = nn.Parameter(torch.empty(0, dtype=weight.dtype), requires_grad=False)
        self._rows, scales = absmax(weight.detach().float(), release=release)
        self._scales = scales.mul_(factor)

    def forward(self, ids: torch.Tensor) -> torch.Tensor:
        """Returns the rows of ids, of shape (..., width)."""
        return (self._rows[ids] * self._scales[ids]).to(self.dtype_holder.dtype)


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

    The original weights become invalid, also for other references to them. Other weights (norms, convolutions, experts)
    stay as they are, and so does the dtype of activations.

    Raises:
        ConfigError: If `quantize` is not in `QUANTIZATIONS`, the model is not on the CPU, or it cannot generate.
    """
    if quantize not in QUANTIZATIONS:
        raise ConfigError(f"quantize is {quantize!r}: there is {', '.join(QUANTIZATIONS)}")
    if hf_model.device.type != "cpu":
        raise ConfigError(
            f"quantize={quantize!r} is for CPUs, but the model is on {hf_model.device}: leave it out there"
        )
    modules = _packable(hf_model, quantize)
    before = _nbytes(hf_model)
    users = Counter(module.weight.data_ptr() for module in modules.values())
    # The embedding and the head, which may be tied, come first: both are large, and packing needs memory.
    for name in sorted(modules, key=lambda name: -modules[name].weight.nbytes):
        module = modules.pop(name)
        address = module.weight.data_ptr()
        hf_model.set_submodule(name, _packed(module, release=users[address] == 1).eval())
        users[address] -= 1
    _report(hf_model, before, quantize)


def _packable(hf_model: "PreTrainedModel", quantize: str) -> dict[str, Any]:
    """Returns the modules that can be packed, by name: those that a trial response only calls.

    Some architectures read a layer's weight themselves (Mamba, RWKV); such a layer must stay as it is.
    """
    embedding = hf_model.get_input_embeddings()
    modules: dict[str, Any] = {
        name: module
        for name, module in hf_model.named_modules()
        if type(module) is nn.Linear or isinstance(module, Conv1D) or (module is embedding and _factor(module))
    }
    probes = {name: _Probe(module) for name, module in modules.items()}
    try:
        for name, probe in probes.items():
            hf_model.set_submodule(name, probe)
        with evaluation_mode(hf_model), torch.inference_mode():
            ids = torch.zeros(1, 2, dtype=torch.long)
            options: Any = {"max_new_tokens": 2, "min_new_tokens": 2, "do_sample": False, "pad_token_id": 0}
            hf_model.generate(ids, attention_mask=torch.ones_like(ids), **options)  # type: ignore[operator]
    except Exception as error:
        raise ConfigError(
            f"quantize={quantize!r} begins with a trial response, which failed ({type(error).__name__}: {error}): "
            "leave it out"
        ) from error
    finally:
        for name, module in modules.items():
            hf_model.set_submodule(name, module)
    called = {name: module for name, module in modules.items() if not probes[name].was_read}
    # A weight that is also used in another place would be kept twice.
    uses = Counter(weight.data_ptr() for _, weight in hf_model.named_parameters(remove_duplicate=False))
    uses.subtract(module.weight.data_ptr() for module in called.values())
    return {name: module for name, module in called.items() if not uses[module.weight.data_ptr()]}


class _Probe(nn.Module):
    """Stands for a module in a trial; notices whether anything but a call was made of it."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.was_read = False
        self._module = module

    def forward(self, *arguments: Any, **options: Any) -> Any:
        return self._module(*arguments, **options)

    def __getattr__(self, name: str) -> Any:
        try:
            return super().__getattr__(name)
        except AttributeError:
            self.was_read = True
            return getattr(super().__getattr__("_module"), name)


def _factor(embedding: Any) -> float | None:
    """Returns the number that an embedding multiplies its rows by: 1, or that of Gemma; None if it is no such thing."""
    if not isinstance(embedding, nn.Embedding):
        return None
    if type(embedding) is nn.Embedding:
        return 1.0
    ids = torch.arange(min(_TRIAL_ROWS, embedding.num_embeddings))
    with torch.inference_mode():
        rows, result = embedding.weight[ids].float(), embedding(ids)
        if result.shape != rows.shape:
            return None
        factor = (result.float() * rows).sum() / (rows * rows).sum()
        is_multiple = torch.allclose(result.float(), rows * factor, rtol=_ROUNDING, atol=0.0)
    return float(factor) if is_multiple else None


def _report(hf_model: "PreTrainedModel", before: int, quantize: str) -> None:
    """Logs how much was packed; where little was, a warning names the largest weights that stay as they are."""
    left = _nbytes(hf_model)
    logger.info(
        "packed %.0f of %.0f MiB of weights as %s; the rest stays %s",
        *((before - left) / 2**20, before / 2**20, quantize, str(hf_model.dtype).removeprefix("torch.")),
    )
    if left > before / 2:
        name, weight = max(hf_model.named_parameters(), key=lambda item: item[1].nbytes)
        logger.warning(
            "%s packs linear layers and the embedding, which are %.0f %% of this model's weights: the others, such as "
            "%s (%s), stay as they are and take the same memory",
            *(quantize, 100 * (1 - left / before), name, " x ".join(map(str, weight.shape))),
        )


def is_quantized(hf_model: "PreTrainedModel") -> bool:
    """Returns whether weights were packed, so that the model can no longer be trained or saved."""
    return any(isinstance(module, Int8Linear | Int8Embedding) for module in hf_model.modules())


def require_unquantized(hf_model: "PreTrainedModel", what: str) -> None:
    """Raises a `ConfigError` for a quantized model."""
    if is_quantized(hf_model):
        raise ConfigError(f"a quantized model cannot be {what}: load it without quantize")


def _packed(module: Any, *, release: bool) -> nn.Module:
    """Packs a linear layer or the embedding."""
    if isinstance(module, nn.Embedding):
        return Int8Embedding(module.weight, factor=_factor(module) or 1.0, release=release)
    if isinstance(module, nn.Linear):
        return Int8Linear(module.weight, module.bias, release=release)
    packed = Int8Linear(module.weight.t(), module.bias)  # a `Conv1D`, whose weights are transposed
    if release:
        _release(module.weight)
    return packed


def _nbytes(hf_model: "PreTrainedModel") -> int:
    return sum(weight.nbytes for weight in hf_model.parameters())
