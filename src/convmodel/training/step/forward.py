"""The model as training calls it: batch in, loss out.

Owns: computing the loss inside the model's own `forward`, as DDP and FSDP require, and setting up model and process for
training. Does not know the optimizer.
"""

import inspect
import logging
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

import torch

from convmodel.hf_model.int8_layers import exact_products
from convmodel.hf_model.lm_head import Head
from convmodel.hf_model.waiting import WAITING
from convmodel.training.step.fused import Batch, fused_layers, unfused
from convmodel.training.step.loss import head_loss, supervised_loss, window_log_probs
from convmodel.training.step.patches import (
    checkpointing,
    compiled,
    dropout_of,
    fused_activations,
    own_attributes,
    without_noise,
)
from convmodel.training.step.runtime import training_runtime

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

_UNWRAPPED = "_original_forward"  # where accelerate keeps the forward that it wraps for mixed precision
_IS_WRAPPED = "_is_accelerate_prepared"  # by which accelerate knows models that it leaves as they are


@contextmanager
def prepared(
    hf_model: "PreTrainedModel", dropout: float = 0.0, gradient_checkpointing: bool = False, torch_compile: bool = False
) -> Iterator[None]:
    """Sets a model and this process up for training inside the block, and restores both afterwards.

    Inside, `hf_model(**batch, total_weight=...)` returns the loss.
    """
    head = Head.of(hf_model)
    if head is None:
        logger.info(
            "the head of %s is not a plain matrix product: all logits of a batch are kept in memory",
            hf_model.config.model_type,
        )
    with ExitStack() as stack:
        stack.enter_context(training_runtime(hf_model.device))
        stack.enter_context(exact_products(hf_model))
        stack.enter_context(fused_activations(hf_model))
        stack.enter_context(dropout_of(hf_model, dropout))
        stack.enter_context(without_noise(hf_model))
        batch = stack.enter_context(fused_layers(hf_model, enabled=not torch_compile))
        stack.enter_context(checkpointing(hf_model, gradient_checkpointing))  # which hooks the embedding
        stack.enter_context(compiled(hf_model.base_model, torch_compile))
        stack.enter_context(computing_loss(hf_model, head, batch))
        yield


@contextmanager
def computing_loss(hf_model: "PreTrainedModel", head: Head | None, batch: Batch | None = None) -> Iterator[None]:
    """Makes a model accept `labels`, `total_weight` and optional `weights`, and return the loss, inside the block.

    With `segments` and `count` in place of `total_weight`, it returns `window_log_probs`; with neither, its usual
    output. Without a head, all logits are computed at once. `batch` learns of the inputs of each call.
    """
    original, batch = hf_model.forward, batch or Batch()

    def forward(*args: Any, total_weight: float | None = None, count: int | None = None, **inputs: Any) -> Any:
        if total_weight is None and count is None:
            batch.begin(None)
            return original(*args, **inputs)
        labels: torch.Tensor = inputs.pop("labels")
        segments: torch.Tensor | None = inputs.pop("segments", None)
        weights: torch.Tensor | None = inputs.pop("weights", None)
        batch.begin(inputs)
        WAITING.look()  # at what was computed since the last batch: this is called for each

        def computed(states: torch.Tensor) -> torch.Tensor:
            if segments is not None:
                return window_log_probs(states, head, labels, segments, count or 0, weights)
            if head is not None:
                return head_loss(head, states, labels, total_weight or 0.0, weights)
            return supervised_loss(states, labels, total_weight or 0.0, weights)

        # Training needs no cache, and GPT-2 makes one by default.
        if head is None:
            return computed(original(**inputs, use_cache=False).logits)
        hidden, layer = head.hidden(**inputs), head.layer
        with own_attributes(layer, "forward"):  # inside which FSDP gathers the layer's weights
            layer.forward = computed
            return layer(hidden)

    # What asks which inputs the model takes, as generation does, gets the same answer as before.
    forward.__signature__ = inspect.signature(original)  # type: ignore[attr-defined]
    with own_attributes(hf_model, "forward", _UNWRAPPED, _IS_WRAPPED):
        for name in (_UNWRAPPED, _IS_WRAPPED):  # from an earlier training by the caller
            vars(hf_model).pop(name, None)
        hf_model.forward = forward
        yield


@contextmanager
def plain_forward(hf_model: "PreTrainedModel") -> Iterator[None]:
    """Uses the original forward of a model in training inside the block: uncompiled and without autocast.

    Packed weights are multiplied as in inference, so that a validation equals what `evaluate` measures later. Also
    restores the number of threads, on which sums depend: generating uses fewer while other programs use the cores.
    """
    threads = torch.get_num_threads()
    try:
        with (
            own_attributes(hf_model, "forward"),
            unfused(hf_model),
            exact_products(hf_model, enabled=False),
            torch.compiler.set_stance("force_eager"),
        ):
            if _UNWRAPPED in vars(hf_model):
                hf_model.forward = vars(hf_model)[_UNWRAPPED]
            yield
    finally:
        torch.set_num_threads(threads)
