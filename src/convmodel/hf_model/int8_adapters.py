"""LoRA adapters over int8 weights: peft adds them as it does to float layers.

Owns: the layers that peft sees in place of packed ones, and what is known of packed embeddings and heads without them.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from convmodel.hf_model.int8_layers import Int8Embedding, Int8Linear

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_DEVIATIONS = 8  # standard deviations that the rounding of a mean does not exceed


@contextmanager
def float_stand_ins(hf_model: "PreTrainedModel") -> Iterator[None]:
    """Puts layers of the classes and shapes that packed ones had in their places inside the block.

    peft chooses by the class of a layer what it adds to which, and what it writes into the adapters' config. The
    stand-ins have no values and take no memory. Afterwards the packed layers take their places, inside of peft's layers
    too.
    """
    modules = dict(hf_model.named_modules())
    packed = {name: module for name, module in modules.items() if isinstance(module, Int8Linear | Int8Embedding)}
    weights: dict[int, nn.Parameter] = {}  # by the address of the scales, so that tied layers share one
    stand_ins: dict[nn.Module, nn.Module] = {}
    for name, module in packed.items():
        stand_in = _stand_in(module, weights, hf_model.dtype)
        stand_ins[stand_in] = module
        hf_model.set_submodule(name, stand_in)
    try:
        yield
    finally:
        places = [(name, module) for name, module in hf_model.named_modules() if module in stand_ins]
        for name, module in places:
            hf_model.set_submodule(name, stand_ins[module])
        _take_over_rows(hf_model)


def _stand_in(module: Any, weights: dict[int, nn.Parameter], dtype: torch.dtype) -> nn.Module:
    is_embedding = isinstance(module, Int8Embedding)
    outputs, inputs = module.rows.shape if is_embedding else (module.out_features, module.in_features)
    is_transposed = not is_embedding and module.is_transposed
    shape = (inputs, outputs) if is_transposed else (outputs, inputs)
    address = module.scales.data_ptr()
    if address not in weights:
        weights[address] = nn.Parameter(torch.zeros((), dtype=dtype).expand(shape), requires_grad=False)
    result: Any
    with torch.device("meta"):
        if is_embedding:
            result = nn.Embedding(outputs, inputs)
        elif is_transposed:
            result = Conv1D(outputs, inputs)
        else:
            result = nn.Linear(inputs, outputs, bias=module.bias is not None)
    result.weight = weights[address]
    if not is_embedding:
        result.bias = module.bias
    return result  # type: ignore[no-any-return]


def _take_over_rows(hf_model: "PreTrainedModel") -> None:
    """Makes peft's layers of single rows compute with the packed layers below them."""
    for module in hf_model.modules():
        rows: Any = getattr(module, "token_adapter", None)
        if rows is not None and isinstance(rows.get_base_layer(), Int8Linear | Int8Embedding):
            from convmodel.hf_model.int8_rows import Int8RowsLayer  # imports peft

            Int8RowsLayer.take_over(rows)


def are_tied(embedding: Any, head: Any) -> bool:
    """Returns whether an embedding and a head have one matrix, packed or not."""
    if isinstance(embedding, Int8Embedding) and isinstance(head, Int8Linear):
        return embedding.scales.data_ptr() == head.scales.data_ptr()
    return getattr(head, "weight", None) is getattr(embedding, "weight", head)


def is_new_row(embedding: Any, row: int, sources: Sequence[int]) -> bool:
    """Returns whether a row of an embedding still has the values that it began with; of packed rows, up to rounding.

    Args:
        embedding: The embedding, packed or not.
        row: The number of the row.
        sources: The rows whose mean it was: one, or all from the first one on.
    """
    count = len(sources)
    if not isinstance(embedding, Int8Embedding):
        rows = embedding.weight
        return torch.allclose(rows[row], rows[sources[0]] if count == 1 else rows[:count].mean(0))
    matrix = embedding.matrix
    if count == 1:
        return all(torch.equal(part[row], part[sources[0]]) for part in (matrix.rows, matrix.scales))
    mean = matrix.mean(count)
    # The row was rounded to the embedding's precision before it was packed.
    rounding = torch.finfo(embedding.dtype_holder.dtype).eps * mean.abs()
    difference = (matrix.values_of(row) - mean).abs() - rounding
    # An integer is off by up to a half, evenly distributed: the variance of a value is a twelfth of its scale squared.
    noise = (matrix.scales[:count].square().sum() / 12).sqrt() / count
    if matrix.columns is not None:
        difference /= matrix.columns
    return bool((difference <= matrix.scales[row] / 2 + _DEVIATIONS * noise).all())
