"""Which models' parts are known."""

from typing import Any

import pytest
import torch
from transformers import (
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    PreTrainedModel,
)
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from convmodel.hf_model.decoder import UnknownDecoderError, decoder_of

SHAPE: dict[str, Any] = {
    "vocab_size": 9,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 4,
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
}


def gpt2(**settings: Any) -> GPT2LMHeadModel:
    shape = {"vocab_size": 9, "n_embd": 4, "n_layer": 1, "n_head": 1, "n_positions": 8}
    return GPT2LMHeadModel(GPT2Config(**shape, bos_token_id=0, eos_token_id=0, **settings))


def llama() -> PreTrainedModel:
    return LlamaForCausalLM(LlamaConfig(**SHAPE))


def test_a_class_of_ones_own_is_not_known() -> None:
    class Own(GPT2LMHeadModel):
        pass

    with pytest.raises(UnknownDecoderError, match="Own is not one of the known classes"):
        decoder_of(Own(gpt2().config))


def test_a_changed_model_is_not_known() -> None:
    hooked = gpt2()
    hooked.transformer.h[0].mlp.register_forward_hook(lambda *_: None)
    replaced = llama()
    replaced.model.layers[0].mlp.up_proj = type("Other", (torch.nn.Linear,), {})(8, 8)
    for hf_model, place in ((hooked, "transformer.h.0.mlp"), (replaced, "model.layers.0.mlp.up_proj")):
        with pytest.raises(UnknownDecoderError, match=f"{place} is not the module that transformers made"):
            decoder_of(hf_model)


def test_a_model_that_computes_otherwise_is_not_known() -> None:
    bidirectional = Gemma3TextConfig(**SHAPE, use_bidirectional_attention=True)
    for hf_model in (gpt2(reorder_and_upcast_attn=True), AutoModelForCausalLM.from_config(bidirectional)):
        with pytest.raises(UnknownDecoderError):
            decoder_of(hf_model)


def test_windows_and_rotary_embeddings_are_those_of_each_layer() -> None:
    mistral = decoder_of(AutoModelForCausalLM.from_config(MistralConfig(**SHAPE, sliding_window=5)))
    assert [layer.window for layer in mistral.layers] == [5, 5]
    config = Gemma3TextConfig(**SHAPE, sliding_window=5, sliding_window_pattern=2)
    gemma = decoder_of(AutoModelForCausalLM.from_config(config))
    assert [layer.window for layer in gemma.layers] == [5, None]
    assert [layer.rotary for layer in gemma.layers] == [("sliding_attention",), ("full_attention",)]


def test_a_window_that_llama_ignores_is_ignored() -> None:
    hf_model = LlamaForCausalLM(LlamaConfig(**SHAPE, sliding_window=5))
    assert [layer.window for layer in decoder_of(hf_model).layers] == [None, None]
