"""A float model with exactly the values of another's int8 weights, to compare with."""

from typing import Any

import torch
from transformers.pytorch_utils import Conv1D

from convmodel.hf_model.int8_layers import Int8Embedding, Int8Linear


def take_values(hf_model: Any, packed: Any) -> None:
    """Sets the weights of a float model to the de-quantized ones of the same model, packed."""
    with torch.no_grad():
        for name, module in packed.named_modules():
            if isinstance(module, Int8Linear | Int8Embedding):
                plain = hf_model.get_submodule(name)
                values = module.matrix.values(torch.float32)
                plain.weight.data = values.t().contiguous() if isinstance(plain, Conv1D) else values
    hf_model.tie_weights()
