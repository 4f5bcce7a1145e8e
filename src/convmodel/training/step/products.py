"""Linear layers that share an input, such as query, key and value, as one matrix product in training.

Owns: their weights in the dtype of products, converted once per optimizer step, and their LoRA adapters together.
Hu et al. 2021, arXiv:2106.09685: a layer with adapters computes W x + s B A x, where only A and B are trained.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.autograd.function import once_differentiable
from torch.optim.optimizer import register_optimizer_step_post_hook

from convmodel.hf_model.int8_layers import Int8Linear
from convmodel.hf_model.int8_matrix import multiply


class UnknownLayerError(Exception):
    """A layer is not supported; the message completes 'not fused, since'."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """A layer's LoRA adapters: A (`down`), B (`up`) and the scaling."""

    layer: Any
    down: nn.Linear
    up: nn.Linear
    scale: float

    @classmethod
    def of(cls, layer: Any) -> "Adapter":
        """Finds the adapters of peft's layer.

        Raises:
            UnknownLayerError: If it is not plain LoRA.
        """
        names = layer.active_adapters
        if len(names) != 1 or layer.merged:
            raise UnknownLayerError("it needs exactly one active adapter, not merged")
        [name] = names
        if name not in layer.lora_A or name in getattr(layer, "lora_variant", {}):
            raise UnknownLayerError("its adapters are a variant of LoRA")
        if not isinstance(layer.lora_dropout[name], nn.Identity):
            raise UnknownLayerError("it has lora_dropout")
        down, up = layer.lora_A[name], layer.lora_B[name]
        if not all(type(each) is nn.Linear and getattr(each, "bias", None) is None for each in (down, up)):
            raise UnknownLayerError("its adapters are not plain linear layers")
        return cls(layer, down, up, float(layer.scaling[name]))


class OptimizerSteps:
    """Counts optimizer steps while active, to invalidate converted weights: fused AdamW does not change `_version`."""

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> "OptimizerSteps":
        self._handle = register_optimizer_step_post_hook(self._add)
        return self

    def __exit__(self, *_: object) -> None:
        self._handle.remove()

    def _add(self, *_: object) -> None:
        self.count += 1


class JointProducts:
    """Several linear layers that are applied to the same input, as one product; differentiable.

    Example:
        >>> layer = nn.Linear(2, 1, bias=False)
        >>> JointProducts([layer, layer], OptimizerSteps())(torch.zeros(3, 2), torch.float32).shape
        torch.Size([3, 2])
    """

    def __init__(self, layers: Sequence[Any], steps: OptimizerSteps) -> None:
        """Takes plain or packed linear layers, or peft's layers around them, and the counter of optimizer steps.

        Raises:
            UnknownLayerError: If a layer is neither a plain or packed linear layer nor one with plain LoRA adapters.
        """
        plain = [layer.get_base_layer() if hasattr(layer, "lora_A") else layer for layer in layers]
        if not all(type(layer) is nn.Linear or isinstance(layer, Int8Linear) for layer in plain):
            raise UnknownLayerError("it is not a plain linear layer")
        if len({(_dtype_of(layer), layer.bias is None) for layer in plain}) != 1:
            raise UnknownLayerError("layers that share an input differ in dtype, or in having a bias")
        self._layers, self._steps = plain, steps
        self._adapters = [Adapter.of(layer) if hasattr(layer, "lora_A") else None for layer in layers]
        self.sizes = [layer.out_features for layer in plain]
        self._converted: tuple[object, list[torch.Tensor]] = (None, [])

    def __call__(self, states: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
        """Applies the layers to states of shape (rows, inputs) in a dtype; returns (rows, all outputs)."""
        states = states.to(dtype)
        if isinstance(self._layers[0], Int8Linear):
            result = multiply(states, self._layers)
        else:
            weights = [layer.weight for layer in self._layers]
            compute: Callable[..., torch.Tensor] = _Products.apply
            result = compute(states, self._in(dtype, weights), self.sizes, *weights)
        if self._layers[0].bias is not None:
            result = result + torch.cat([layer.bias for layer in self._layers]).to(dtype)
        adapters = [None if each is None or each.layer.disable_adapters else each for each in self._adapters]
        return result + self._adapted(states, adapters, dtype) if any(adapters) else result

    @property
    def are_merged(self) -> bool:
        """Whether adapters have been merged into the weights since construction."""
        return any(adapter is not None and adapter.layer.merged for adapter in self._adapters)

    @property
    def converted_bytes(self) -> int:
        """The size of the weights that are kept in another dtype."""
        return sum(matrix.nbytes for matrix in self._converted[1])

    def _in(self, dtype: torch.dtype, weights: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Returns the weights in a dtype, concatenated if they had to be converted."""
        if weights[0].dtype == dtype:
            return [weight.detach() for weight in weights]
        steps = self._steps.count if any(weight.requires_grad for weight in weights) else 0
        state = dtype, steps, [(id(weight), weight._version, weight.data_ptr()) for weight in weights]
        if self._converted[0] != state:
            self._converted = state, [torch.cat([weight.detach().to(dtype) for weight in weights])]
        return self._converted[1]

    def _adapted(self, states: torch.Tensor, adapters: Sequence[Adapter | None], dtype: torch.dtype) -> torch.Tensor:
        """Returns what the adapters add: one product with all A, and one with a block-diagonal matrix of all B."""
        down = torch.cat([adapter.down.weight for adapter in adapters if adapter is not None]).to(dtype)
        blocks, place = [], 0
        for adapter, size in zip(adapters, self.sizes, strict=True):
            if adapter is None:
                blocks.append(down.new_zeros(size, len(down)))
                continue
            rank = adapter.down.out_features
            pad = place, len(down) - place - rank
            blocks.append(nn.functional.pad((adapter.scale * adapter.up.weight).to(dtype), pad))
            place += rank
        return (states @ down.t()) @ torch.cat(blocks).t()


def _dtype_of(layer: Any) -> torch.dtype:
    return torch.int8 if isinstance(layer, Int8Linear) else layer.weight.dtype


class _Products(torch.autograd.Function):
    """Products with concatenated weights; gradients with respect to weights have the weights' own dtype."""

    @staticmethod
    def forward(
        ctx: Any, states: torch.Tensor, matrices: Sequence[torch.Tensor], sizes: Sequence[int], *weights: torch.Tensor
    ) -> torch.Tensor:
        ctx.save_for_backward(states)
        ctx.matrices, ctx.sizes, ctx.dtype = matrices, sizes, weights[0].dtype
        parts = [states @ matrix.t() for matrix in matrices]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> Any:
        [states], [by_result] = ctx.saved_tensors, gradients
        by_states: torch.Tensor | None = None
        parts = by_result.split([len(matrix) for matrix in ctx.matrices], dim=1)
        if ctx.needs_input_grad[0]:
            by_states = parts[0] @ ctx.matrices[0]
            for part, matrix in zip(parts[1:], ctx.matrices[1:], strict=True):
                by_states = torch.addmm(by_states, part, matrix)
        by_weights: Sequence[torch.Tensor | None] = [None] * len(ctx.sizes)
        if any(ctx.needs_input_grad[3:]):
            joined = torch.cat([part.t() @ states for part in parts]) if len(parts) > 1 else parts[0].t() @ states
            by_weights = joined.to(ctx.dtype).split(ctx.sizes)
        return by_states, None, None, *by_weights
