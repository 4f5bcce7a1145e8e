"""GPT-2's forward pass with as few operations as possible, on the weights of a Hugging Face model.

Owns: which models it supports, and the pass itself. Weights are used in place: nothing is copied.
Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"; the order of operations is transformers'.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.nn import functional
from transformers import GPT2LMHeadModel
from transformers.pytorch_utils import Conv1D

from convmodel.generation.engine.kv_cache import KVCache
from convmodel.hf_model.quantization import Int8Embedding, Int8Linear

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_GELU_TANH = frozenset({"gelu_new", "gelu_pytorch_tanh"})

Product = Callable[[torch.Tensor], torch.Tensor]
Norm = tuple[list[int], torch.Tensor, torch.Tensor, float]


@dataclass(frozen=True, slots=True)
class _Block:
    before_attention: Norm
    read: Product
    write: Product
    scaling: float
    before_mlp: Norm
    up: Product
    down: Product


class LeanGPT2:
    """Computes the logits of a `GPT2LMHeadModel` in evaluation mode.

    Attributes:
        layers: How many layers a cache needs.
    """

    def __init__(self, hf_model: Any) -> None:
        """Looks up the weights once; the model must be one that `supports` accepts."""
        body = hf_model.transformer
        self.layers = len(body.h)
        self._heads = hf_model.config.n_head
        self._tokens, self._positions = body.wte, body.wpe
        self._blocks = [
            _Block(
                _norm(block.ln_1),
                _product(block.attn.c_attn),
                _product(block.attn.c_proj),
                block.attn.scaling,
                _norm(block.ln_2),
                _product(block.mlp.c_fc),
                _product(block.mlp.c_proj),
            )
            for block in body.h
        ]
        self._last_norm = _norm(body.ln_f)
        self._head = _product(hf_model.lm_head)

    def __call__(
        self, ids: torch.Tensor, types: torch.Tensor | None, positions: torch.Tensor, cache: KVCache
    ) -> torch.Tensor:
        """Processes new tokens; see `convmodel.generation.engine.forward.Forward`."""
        rows, new = ids.shape
        mask, causal = self._mask(cache, new, ids.device)
        hidden = self._tokens(ids) + self._positions(positions)
        if types is not None:
            hidden = hidden + self._tokens(types)
        width = hidden.shape[-1]
        hidden = hidden.view(rows * new, width)  # 2-D matrix products are the fastest
        shape = (rows, new, self._heads, width // self._heads)
        for block, layer in zip(self._blocks, cache.layers, strict=True):
            read = block.read(functional.layer_norm(hidden, *block.before_attention))
            query, key, value = (part.view(shape).transpose(1, 2) for part in read.split(width, dim=-1))
            keys, values = layer.update(key, value)
            attended = functional.scaled_dot_product_attention(
                query, keys, values, attn_mask=mask, is_causal=causal, scale=block.scaling
            )
            hidden = hidden + block.write(attended.transpose(1, 2).reshape(rows * new, width))
            inner = block.up(functional.layer_norm(hidden, *block.before_mlp))
            hidden = hidden + block.down(functional.gelu(inner, approximate="tanh"))
        last = hidden.view(rows, new, width)[:, -1]
        return self._head(functional.layer_norm(last, *self._last_norm))

    @staticmethod
    def _mask(cache: KVCache, new: int, device: torch.device) -> tuple[torch.Tensor | None, bool]:
        """Returns the attention mask, (rows, 1, new, positions), or None and whether attention is simply causal."""
        padding = cache.mask(new)
        if new > 1 and cache.length == 0 and padding is None:
            return None, True
        mask = None if padding is None else padding.bool()[:, None, None, :]
        if new > 1:
            all_positions = torch.arange(cache.length + new, device=device)
            causal = all_positions <= all_positions[cache.length :, None]
            mask = causal if mask is None else causal & mask
        return mask, False


def supports(hf_model: "PreTrainedModel") -> bool:
    """Returns whether `LeanGPT2` computes what the model's own forward pass does.

    It does not for subclasses, other activations, adapters, replaced modules or modules with hooks.
    """
    if type(hf_model) is not GPT2LMHeadModel:
        return False
    config = hf_model.config
    standard = config.activation_function in _GELU_TANH and not config.add_cross_attention
    return standard and not config.reorder_and_upcast_attn and all(_is_plain(module) for module in hf_model.modules())


def _is_plain(module: nn.Module) -> bool:
    hooked = module._forward_hooks or module._forward_pre_hooks or hasattr(module, "_hf_hook")
    home = type(module).__module__
    original = home.startswith(("torch.nn.", "transformers.models.gpt2.", "transformers.activations"))
    return (original or isinstance(module, Conv1D | Int8Linear | Int8Embedding)) and not hooked


def _norm(module: Any) -> Norm:
    return list(module.normalized_shape), module.weight, module.bias, module.eps


def _product(module: Any) -> Product:
    if isinstance(module, Conv1D):
        conv_weight, conv_bias = module.weight, module.bias
        return lambda hidden: torch.addmm(conv_bias, hidden, conv_weight)
    if type(module) is nn.Linear:
        weight, bias = module.weight, module.bias
        return lambda hidden: functional.linear(hidden, weight, bias)
    packed: Product = module.forward
    return packed
