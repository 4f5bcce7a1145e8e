"""The model as training calls it: batch in, loss out.

Owns: computing the loss inside the model's own `forward`, where DDP and FSDP expect whatever needs its weights, and all
else that is different while a model learns.
"""

import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch

from convmodel.hf_model.lm_head import Head
from convmodel.training.step.loss import head_loss, supervised_loss
from convmodel.training.step.patches import checkpointing, compiled, dropout_of, fused_activations, own_attributes
from convmodel.training.step.runtime import set_up

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

_UNWRAPPED = "_original_forward"  # where accelerate puts the forward that it wraps to compute in half precision


@contextmanager
def prepared(
    hf_model: "PreTrainedModel", dropout: float = 0.0, gradient_checkpointing: bool = False, torch_compile: bool = False
) -> Iterator[None]:
    """Makes a model and this process ready to learn inside the block, and both as they were afterwards.

    Args:
        hf_model: The model; inside, `hf_model(**batch, total_weight=...)` is the loss.
        dropout: Its rate.
        gradient_checkpointing: Whether activations are computed twice rather than kept.
        torch_compile: Whether the model is compiled.
    """
    head = Head.of(hf_model)
    if head is None:
        logger.info("the head of %s is no plain matrix product: logits are held whole", hf_model.config.model_type)
    with ExitStack() as stack:
        stack.enter_context(set_up(hf_model.device))
        stack.enter_context(fused_activations(hf_model))
        stack.enter_context(dropout_of(hf_model, dropout))
        stack.enter_context(checkpointing(hf_model, gradient_checkpointing))
        stack.enter_context(compiled(hf_model.base_model, torch_compile))
        stack.enter_context(computing_loss(hf_model, head))
        yield


@contextmanager
def computing_loss(hf_model: "PreTrainedModel", head: Head | None) -> Iterator[None]:
    """Lets a model take `labels`, maybe `weights`, and `total_weight`, and return the loss, inside the block.

    Called without `total_weight` it returns what it always does.

    Args:
        hf_model: The model.
        head: Its parts, for a loss in chunks; None where it cannot be taken apart.
    """
    whole = hf_model.forward

    def forward(*args: Any, total_weight: float | None = None, **inputs: Any) -> Any:
        if total_weight is None:
            return whole(*args, **inputs)
        labels: torch.Tensor = inputs.pop("labels")
        weights: torch.Tensor | None = inputs.pop("weights", None)
        # A cache is of no use here, and GPT-2 makes one by default.
        if head is None:
            return supervised_loss(whole(**inputs, use_cache=False).logits, labels, total_weight, weights)
        hidden, layer = head.hidden(**inputs), head.layer
        with own_attributes(layer, "forward"):  # inside of which FSDP has the weights of a layer whole
            layer.forward = lambda states: head_loss(head, states, labels, total_weight, weights)
            return layer(hidden)

    with own_attributes(hf_model, "forward", _UNWRAPPED):
        vars(hf_model).pop(_UNWRAPPED, None)  # an earlier wrapping of the caller's
        hf_model.forward = forward
        yield


@contextmanager
def plain_forward(hf_model: "PreTrainedModel") -> Iterator[None]:
    """Lets a model in training compute as it does outside of it: uncompiled, in its weights' precision."""
    with own_attributes(hf_model, "forward"), torch.compiler.set_stance("force_eager"):
        if _UNWRAPPED in vars(hf_model):
            hf_model.forward = vars(hf_model)[_UNWRAPPED]
        yield
