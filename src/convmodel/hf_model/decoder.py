"""The parts of a decoder-only language model by what they do, whatever a family calls them.

Owns: which model classes are known, and where their layers, norms, matrices, rotary embeddings and windows are. What is
computed with the parts is up to the caller: see `convmodel.generation.engine.lean`.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from transformers.activations import FastGELUActivation, GELUTanh, NewGELUActivation, SiLUActivation
from transformers.pytorch_utils import Conv1D

from convmodel.hf_model.int8_layers import Int8Embedding, Int8Linear

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class Norm:
    """A layer norm, or a norm by the root mean square, which has no bias.

    Attributes:
        module: The norm.
        is_rms: Whether it divides by the root mean square.
        offset: What is added to its weight: 1 in Gemma, whose weights are stored around 0.
    """

    module: Any
    is_rms: bool
    offset: float = 0.0

    @property
    def epsilon(self) -> float:
        """What is added to the variance or the mean of squares."""
        epsilon: float = getattr(self.module, "variance_epsilon", None) or self.module.eps
        return epsilon


@dataclass(frozen=True, slots=True)
class DecoderLayer:
    """One layer: attention, then a feed-forward network, each added to its input.

    Attributes:
        attention_norm: Applied to the input of attention.
        query_key_value: The matrices of queries, keys and values; one where the model has them joined.
        query_norm: Applied to each head's query; None in most models.
        key_norm: Applied to each head's key.
        attention_output: The matrix after attention.
        attention_output_norm: Applied to the result of attention; None in most models.
        mlp_norm: Applied to the input of the feed-forward network.
        up: The matrices before the activation function: gate and up, one where the model has them joined; only up in
            networks without a gate.
        down: The matrix after it.
        mlp_output_norm: Applied to the result of the feed-forward network; None in most models.
        scale: Scores of attention are multiplied by it.
        window: How many positions, its own included, a query attends to; None for all.
        rotary: The arguments of the rotary embedding in this layer; None if there is none.
    """

    attention_norm: Norm
    query_key_value: tuple[Any, ...]
    query_norm: Norm | None
    key_norm: Norm | None
    attention_output: Any
    attention_output_norm: Norm | None
    mlp_norm: Norm
    up: tuple[Any, ...]
    down: Any
    mlp_output_norm: Norm | None
    scale: float
    window: int | None
    rotary: tuple[Any, ...] | None


@dataclass(frozen=True, slots=True)
class Decoder:
    """A decoder-only language model.

    Attributes:
        embedding: Of tokens, and of token types in models that have them.
        position_embedding: Added to the token's; None in models with a rotary embedding.
        rotary_embedding: Computes cosines and sines of positions; None in models without one.
        layers: The layers.
        norm: Applied to the last layer's result.
        head: The matrix that computes logits.
        heads: The number of heads.
        key_value_heads: The number of heads of keys and values; several queries may share one.
        head_size: The length of a head's query, key and value.
        is_gated: Whether the feed-forward network multiplies its activations by `up`.
        activation: The activation function.
        attention_cap: Scores of attention are softly limited to this; None for no limit.
        logit_cap: Logits are softly limited to this; None for no limit.
    """

    embedding: Any
    position_embedding: Any
    rotary_embedding: Any
    layers: tuple[DecoderLayer, ...]
    norm: Norm
    head: Any
    heads: int
    key_value_heads: int
    head_size: int
    is_gated: bool
    activation: Callable[[torch.Tensor], torch.Tensor]
    attention_cap: float | None = None
    logit_cap: float | None = None


@dataclass(frozen=True, slots=True)
class _Family:
    """What the modules of a class that is like Llama do not tell."""

    norm_offset: float = 0.0
    has_window: bool = False  # of all layers, which attention takes from the config


_LLAMA_LIKE = {
    "LlamaForCausalLM": _Family(),
    "MistralForCausalLM": _Family(has_window=True),
    "Qwen2ForCausalLM": _Family(),
    "Qwen3ForCausalLM": _Family(),
    "SmolLM3ForCausalLM": _Family(),
    "Phi3ForCausalLM": _Family(has_window=True),
    "Gemma2ForCausalLM": _Family(norm_offset=1.0),
    "Gemma3ForCausalLM": _Family(norm_offset=1.0),
}


class UnknownDecoderError(Exception):
    """Why the parts of a model are not known; part of a sentence."""


def is_silu(activation: Any) -> bool:
    """Returns whether an activation function is SiLU."""
    return isinstance(activation, SiLUActivation | nn.SiLU)


def is_tanh_gelu(activation: Any) -> bool:
    """Returns whether an activation function is GELU's tanh approximation."""
    if isinstance(activation, nn.GELU):
        return activation.approximate == "tanh"
    return isinstance(activation, NewGELUActivation | FastGELUActivation | GELUTanh)


def decoder_of(hf_model: "PreTrainedModel", *, for_training: bool = False) -> Decoder:
    """Returns the parts of a model; `for_training`, parts may have hooks, or be peft's layers around them.

    Raises:
        UnknownDecoderError: If its class is not known, or it was changed: by adapters, hooks, or replaced modules.

    Example:
        >>> from convmodel import ConversationModel
        >>> decoder = decoder_of(ConversationModel.from_pretrained("model").hf_model)
        >>> decoder.heads, decoder.is_gated
        (2, False)
    """
    name = type(hf_model).__name__
    if type(hf_model).__module__.startswith("transformers.models."):
        home = type(hf_model).__module__.rpartition(".")[0]
        for path, module in hf_model.named_modules():
            if not _is_plain(module, home, for_training):
                raise UnknownDecoderError(f"{path or name} is not the module that transformers made")
        if name == "GPT2LMHeadModel":
            return _gpt2(hf_model)
        if name in _LLAMA_LIKE:
            return _llama_like(hf_model, _LLAMA_LIKE[name])
    raise UnknownDecoderError(f"{name} is not one of the known classes")


def _is_plain(module: nn.Module, home: str, for_training: bool) -> bool:
    """Returns whether a module is as its library made it, and without forward hooks unless `for_training`."""
    origin = type(module).__module__
    original = origin.startswith(("torch.nn.", home, "transformers.activations"))
    original = original or isinstance(module, Conv1D | Int8Linear | Int8Embedding)
    if for_training:
        return original or origin.startswith(("peft.", "convmodel.hf_model.int8_rows"))
    changed = module._forward_hooks or module._forward_pre_hooks or hasattr(module, "_hf_hook")
    return original and not changed


def _gpt2(hf_model: Any) -> Decoder:
    """Radford et al. 2019, "Language Models are Unsupervised Multitask Learners"."""
    config, body = hf_model.config, hf_model.transformer
    if config.add_cross_attention or config.reorder_and_upcast_attn:
        raise UnknownDecoderError("it has attention to an encoder, or computes attention in its own precision")
    layers = tuple(
        DecoderLayer(
            attention_norm=Norm(block.ln_1, is_rms=False),
            query_key_value=(block.attn.c_attn,),
            query_norm=None,
            key_norm=None,
            attention_output=block.attn.c_proj,
            attention_output_norm=None,
            mlp_norm=Norm(block.ln_2, is_rms=False),
            up=(block.mlp.c_fc,),
            down=block.mlp.c_proj,
            mlp_output_norm=None,
            scale=block.attn.scaling,
            window=None,
            rotary=None,
        )
        for block in body.h
    )
    return Decoder(
        embedding=body.wte,
        position_embedding=body.wpe,
        rotary_embedding=None,
        layers=layers,
        norm=Norm(body.ln_f, is_rms=False),
        head=hf_model.lm_head,
        heads=config.n_head,
        key_value_heads=config.n_head,
        head_size=config.n_embd // config.n_head,
        is_gated=False,
        activation=body.h[0].mlp.act,
    )


def _llama_like(hf_model: Any, family: _Family) -> Decoder:
    """Touvron et al. 2023, arXiv:2302.13971, and the families that followed it."""
    config, body = hf_model.config, hf_model.model
    if getattr(config, "use_bidirectional_attention", False):
        raise UnknownDecoderError("its tokens attend to later ones")
    first = body.layers[0]
    return Decoder(
        embedding=body.embed_tokens,
        position_embedding=None,
        rotary_embedding=body.rotary_emb,
        layers=tuple(_llama_layer(config, layer, number, family) for number, layer in enumerate(body.layers)),
        norm=Norm(body.norm, is_rms=True, offset=family.norm_offset),
        head=hf_model.lm_head,
        heads=config.num_attention_heads,
        key_value_heads=config.num_key_value_heads,
        head_size=getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads,
        is_gated=True,
        activation=getattr(first.mlp, "act_fn", None) or first.mlp.activation_fn,
        attention_cap=getattr(config, "attn_logit_softcapping", None),
        logit_cap=getattr(config, "final_logit_softcapping", None),
    )


def _llama_layer(config: Any, layer: Any, number: int, family: _Family) -> DecoderLayer:
    attention, mlp = layer.self_attn, layer.mlp

    def norm(parent: Any, name: str) -> Norm | None:
        module = getattr(parent, name, None)
        return None if module is None else Norm(module, is_rms=True, offset=family.norm_offset)

    kinds = getattr(config, "layer_types", None)
    has_two = hasattr(layer, "pre_feedforward_layernorm")  # norms around each part, as in Gemma
    before = norm(layer, "input_layernorm")
    before_mlp = norm(layer, "pre_feedforward_layernorm" if has_two else _AFTER_ATTENTION)
    assert before is not None
    assert before_mlp is not None
    return DecoderLayer(
        attention_norm=before,
        query_key_value=_joined_or(attention, "qkv_proj", "q_proj", "k_proj", "v_proj"),
        query_norm=norm(attention, "q_norm"),
        key_norm=norm(attention, "k_norm"),
        attention_output=attention.o_proj,
        attention_output_norm=norm(layer, _AFTER_ATTENTION) if has_two else None,
        mlp_norm=before_mlp,
        up=_joined_or(mlp, "gate_up_proj", "gate_proj", "up_proj"),
        down=mlp.down_proj,
        mlp_output_norm=norm(layer, "post_feedforward_layernorm"),
        scale=attention.scaling,
        window=config.sliding_window if family.has_window else getattr(attention, "sliding_window", None),
        rotary=_rotary(config, attention, kinds[number] if kinds else None),
    )


_AFTER_ATTENTION = "post_attention_layernorm"


def _rotary(config: Any, attention: Any, kind: str | None) -> tuple[Any, ...] | None:
    """Returns the arguments of the rotary embedding after the positions: the kind of layer if there is one for each."""
    if not getattr(attention, "use_rope", True):
        return None
    return (kind,) if kind in (config.rope_parameters or {}) else ()


def _joined_or(parent: Any, joined: str, *names: str) -> tuple[Any, ...]:
    return (getattr(parent, joined),) if hasattr(parent, joined) else tuple(getattr(parent, name) for name in names)
