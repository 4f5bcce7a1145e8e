"""A model in half precision made one in float32.

Owns: that the result equals the same weights saved and loaded in float32, buffers included.
"""

import copy
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def to_float32(hf_model: "PreTrainedModel") -> None:
    """Converts weights and buffers to float32 in place."""
    if in_half_precision(hf_model):
        hf_model.float()
        compute_buffers(hf_model)


def in_half_precision(hf_model: "PreTrainedModel") -> bool:
    """Returns whether any weight has less than 32 bits."""
    return any(weight.is_floating_point() and weight.itemsize < 4 for weight in hf_model.parameters())


def compute_buffers(hf_model: "PreTrainedModel") -> None:
    """Computes the buffers that are not saved again, which half precision has rounded.

    Gemma's factor on embeddings is one; converted to float32, it would stay rounded.
    """
    saved = hf_model.state_dict().keys()
    buffers = {name: buffer for name, buffer in hf_model.named_buffers() if name not in saved}
    if not any(buffer.is_floating_point() for buffer in buffers.values()):
        return
    from accelerate import init_empty_weights  # imported late, since only training has it

    with init_empty_weights(include_buffers=False):
        exact = dict(type(hf_model)(copy.deepcopy(hf_model.config)).named_buffers())
    for name, buffer in buffers.items():
        if name in exact and exact[name].shape == buffer.shape:
            buffer.copy_(exact[name])
