"""The check of a device before a model is trained there: is one update that of the CPU?

Owns: the update that is compared, the memory that this takes, and leaving a device that computes another one. How
results are compared, and what follows, is `hf_model.device_check`'s.
"""

import logging
from collections.abc import Iterator
from copy import deepcopy
from typing import TYPE_CHECKING, Any

import torch

from convmodel.hf_model.device_check import Comparison, Move, compare, decide, mover, random_ids
from convmodel.hf_model.devices import CHECKED_TYPES, move
from convmodel.hf_model.float32 import in_half_precision, to_float32
from convmodel.training.doctor.estimate import available_bytes
from convmodel.training.step.forward import prepared
from convmodel.training.units import size

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

BOUND = 1e-2
"""The largest difference of an update that is only rounding, relative to the update."""

HALF_BOUND = 1e-1  # with frozen weights in half precision

_LEARNING_RATE = 1e-3
_FLOAT = 4  # bytes of a gradient, and of an update


def leave_wrong_device(hf_model: "PreTrainedModel") -> bool:
    """Moves a model to the CPU if an Apple GPU computes another update of its trained weights; returns whether it did.

    Other devices are not checked, nor is one with too little memory for the check, which a line reports. A model whose
    device the caller named stays there, with a warning.
    """
    device = hf_model.device
    if device.type not in CHECKED_TYPES:
        return False
    needed, available = check_bytes(hf_model), available_bytes(hf_model)
    if available is not None and needed > available:
        logger.warning(
            "the update on %s is not compared with the CPU's: that needs %s, and %s are available",
            device, size(needed), size(available),
        )  # fmt: skip
        return False
    target = torch.device(decide(hf_model, "update", device, lambda: compare_updates(hf_model, mover(device))))
    if target == device:
        return False
    move(hf_model, target)
    return True


def check_bytes(hf_model: "PreTrainedModel") -> int:
    """Counts the bytes of a model's weights and their copy, and of gradients and updates of the trained weights."""
    weights = sum(weight.numel() * weight.element_size() for weight in hf_model.parameters())
    return 2 * weights + 2 * _FLOAT * sum(weight.numel() for weight in _trained(hf_model))


def compare_updates(hf_model: "PreTrainedModel", move_there: Move) -> Comparison:
    """Compares a step of training on the CPU with the same step after a move; the model itself is left unchanged.

    The step is the one of `fit`, without dropout, on random tokens; trained weights are in float32. AdamW divides each
    gradient by its size plus an epsilon, which is here the size of the average gradient: with a small one, the rounding
    of tiny gradients would decide the signs of whole steps.
    """
    copy: Any = deepcopy(hf_model)
    if any(weight.element_size() < _FLOAT for weight in _trained(copy)):
        to_float32(copy)
    copy.to("cpu")
    _compute_gradients(copy)
    gradients = [weight.grad for weight in _trained(copy) if weight.grad is not None]
    squares = sum(gradient.norm().item() ** 2 for gradient in gradients)
    epsilon = max((squares / sum(gradient.numel() for gradient in gradients)) ** 0.5, 1e-8)
    del gradients  # which `_updates` frees one by one
    expected = [*_updates(copy, epsilon)]

    def there() -> Iterator[torch.Tensor]:
        move_there(copy)
        _compute_gradients(copy)
        return _updates(copy, epsilon)

    return compare("update", HALF_BOUND if in_half_precision(copy) else BOUND, expected, there)


def _trained(hf_model: "PreTrainedModel") -> list[torch.nn.Parameter]:
    return [weight for weight in hf_model.parameters() if weight.requires_grad]


def _compute_gradients(hf_model: Any) -> None:
    hf_model.zero_grad(set_to_none=True)
    ids = random_ids(hf_model).to(hf_model.device)
    with torch.enable_grad(), prepared(hf_model):
        hf_model.train()
        hf_model(input_ids=ids, labels=ids, total_weight=float(ids[:, 1:].numel())).backward()


def _updates(hf_model: "PreTrainedModel", epsilon: float) -> Iterator[torch.Tensor]:
    """Yields how one step changes each trained weight that has a gradient, and frees the gradient."""
    for weight in _trained(hf_model):
        if weight.grad is None:
            continue
        changed = weight.detach().clone().requires_grad_()
        changed.grad, weight.grad = weight.grad, None
        torch.optim.AdamW([changed], _LEARNING_RATE, eps=epsilon, weight_decay=0.0, fused=True).step()
        yield changed.detach().cpu() - weight.detach().cpu()
