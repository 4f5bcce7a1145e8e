"""The check of a device before a model is used there: are its logits those of the CPU?

Owns: the comparison, how much may differ, remembering results in this process, and what follows from them. Does not
know training, whose own comparison has the same form.
"""

import logging
import math
import os
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from weakref import WeakSet

import torch
from transformers import PreTrainedModel

from convmodel.hf_model.devices import CHECKED_TYPES, UNUSABLE, default_device, first_line, move, synchronize
from convmodel.hf_model.eval_mode import evaluation_mode

logger = logging.getLogger(__name__)

BOUNDS = {torch.float32: 1e-3, torch.float64: 1e-3}
"""The largest difference that is only rounding, relative to the values, by the dtype of the weights."""

HALF_BOUND = 5e-2  # of other dtypes

VARIABLE = "CONVMODEL_DEVICE"
"""The environment variable that names a device for all models that are loaded without one."""

_ROWS, _TOKENS = 2, 16  # of random ids

Move = Callable[[PreTrainedModel], object]
"""Puts a model on the device to check, in place."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """A result of a device beside the CPU's; `difference` is the norm of the difference over that of the CPU's result.

    Example:
        >>> print(Comparison("logits", 2e-6, 1e-3), Comparison("logits", 0.5, 1e-3).is_right)
        logits differ from the CPU's by 2e-06, at most 0.001 is allowed False
        >>> print(Comparison("update", math.nan, 1e-3, "aten::mm is not implemented"))
        update cannot be computed: aten::mm is not implemented
    """

    name: str
    difference: float
    bound: float
    problem: str = ""  # why there is no result

    @property
    def is_right(self) -> bool:
        """Whether the device computes what the CPU does, up to rounding."""
        return not self.problem and self.difference <= self.bound

    def __str__(self) -> str:
        if self.problem:
            return f"{self.name} cannot be computed: {self.problem}"
        return f"{self.name} differ{'s' * (self.name != 'logits')} from the CPU's by {self.difference:.2g}, " + (
            f"at most {self.bound:g} is allowed"
        )


def mover(device: str | torch.device) -> Move:
    """Returns the function that puts a model on a device; it raises torch's own errors."""
    return lambda hf_model: hf_model.to(torch.device(device))  # type: ignore[arg-type]


def compare(
    name: str, bound: float, expected: Iterable[torch.Tensor], on_device: Callable[[], Iterable[torch.Tensor]]
) -> Comparison:
    """Compares tensors that a device computes with the CPU's one by one; the device's error becomes the problem."""
    difference = size = 0.0
    try:
        for actual, reference in zip(on_device(), expected, strict=True):
            difference += (actual.cpu().float() - reference.float()).norm().item() ** 2
            size += reference.float().norm().item() ** 2
    except UNUSABLE as error:
        return Comparison(name, math.nan, bound, first_line(error))
    return Comparison(name, math.sqrt(difference / max(size, torch.finfo().tiny)), bound)


def compare_logits(hf_model: PreTrainedModel, move_there: Move) -> Comparison:
    """Compares a model's logits on random tokens on the CPU, where it is, with those after a move, where it stays."""

    def there() -> list[torch.Tensor]:
        move_there(hf_model)
        return [logits(hf_model)]

    return compare("logits", BOUNDS.get(hf_model.dtype, HALF_BOUND), [logits(hf_model)], there)


def logits(hf_model: PreTrainedModel) -> torch.Tensor:
    """Returns a model's logits for a few random tokens, the same in each call."""
    ids = random_ids(hf_model).to(hf_model.device)
    with evaluation_mode(hf_model), torch.no_grad():
        result: torch.Tensor = hf_model(input_ids=ids, use_cache=False).logits
    return result


def random_ids(hf_model: PreTrainedModel) -> torch.Tensor:
    """Returns random token ids on the CPU, of shape (rows, tokens)."""
    vocabulary = hf_model.config.get_text_config(decoder=True).vocab_size
    return torch.randint(vocabulary, (_ROWS, _TOKENS), generator=torch.Generator().manual_seed(0))


def seconds_per_token(hf_model: PreTrainedModel, tries: int = 3) -> float:
    """Returns the time of a forward pass over a few tokens per token, on the model's device; the shortest of some."""
    logits(hf_model)
    times = []
    for _ in range(tries):
        begin = time.perf_counter()
        logits(hf_model)
        synchronize(hf_model.device)
        times.append(time.perf_counter() - begin)
    return min(times) / (_ROWS * _TOKENS)


_results: dict[tuple[str, object], Comparison] = {}  # of this process, by what was compared
_chosen: WeakSet[PreTrainedModel] = WeakSet()  # models whose device the caller named


def place(hf_model: PreTrainedModel, device: str | torch.device | None) -> PreTrainedModel:
    """Moves a model to a device, and puts it into evaluation mode.

    By default that is the one in the environment variable `CONVMODEL_DEVICE`, else a GPU if there is one. An Apple GPU
    is used if it computes the CPU's logits, else the CPU; one that was named is used all the same, with a warning.

    Raises:
        ConfigError: If the device cannot be used.
    """
    named = device or os.environ.get(VARIABLE)
    target = named or default_device()
    if named:
        _chosen.add(hf_model)
    if str(target).partition(":")[0] in CHECKED_TYPES and hf_model.device.type == "cpu":
        target = decide(hf_model, "logits", target, lambda: compare_logits(hf_model, mover(target)))
    move(hf_model, target).eval()
    return hf_model


def decide(
    hf_model: PreTrainedModel, name: str, device: str | torch.device, check: Callable[[], Comparison]
) -> str | torch.device:
    """Returns the device to use after a check, which is made once for models of the same shape, and logs why.

    That is the CPU if the check fails, unless the caller has named the device.
    """
    key = (name, _shape(hf_model, device))
    is_new = key not in _results
    result = _results[key] = check() if is_new else _results[key]
    if result.is_right:
        if is_new:
            logger.info("using %s: %s", device, result)
        return device
    if hf_model in _chosen:
        logger.warning("%s was requested, but %s; the CPU is safe", device, result)
        return device
    logger.warning("using the CPU instead of %s: %s", device, result)
    return "cpu"


def _shape(hf_model: PreTrainedModel, device: str | torch.device) -> object:
    """Returns what a check depends on: the version of torch, the device, the weights' shapes, and which are trained."""
    shapes = tuple((name, value.shape, value.dtype, value.requires_grad) for name, value in hf_model.named_parameters())
    return torch.__version__, str(device), type(hf_model), hash(shapes)
