"""Tiny random models of the architectures that go to llama.cpp, each with a vocabulary and a layout of its family.

Owns: what the families differ in: norms, rotary scaling, windows, biases, templates, kinds of vocabularies.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from chat_templates import FORMS, make_tokenizer
from scripted import enliven
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from convmodel.layout.tokenizer import ConversationTokenizer
from convmodel.model import ConversationModel
from tokenizers_zoo import train_bpe

POSITIONS = 512


class Tiny(NamedTuple):
    """An architecture, what differs from the others, and the form of its chat template; none for separators."""

    model_type: str
    settings: Mapping[str, Any]
    form: str | None = "chatml"


_SPREAD = {"rope_type": "llama3", "factor": 4.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
_LINEAR = {"rope_type": "linear", "factor": 2.0, "rope_theta": 1000.0}
_LLAMA3 = _SPREAD | {"original_max_position_embeddings": 64, "rope_theta": 1000.0}
_LONG = {
    "rope_type": "longrope",
    "rope_theta": 1000.0,
    "short_factor": [1.0, 1.1, 1.2, 1.3, 1.4, 1.5, 1.6, 1.7],
    "long_factor": [2.0] * 8,
    "original_max_position_embeddings": 256,
}
_EXTENDED = {"sliding_window": None, "rope_parameters": _LONG, "original_max_position_embeddings": 256}
MODELS: Mapping[str, Tiny] = {
    "llama": Tiny("llama", {"attention_bias": True}),
    "llama, separator": Tiny("llama", {}, None),
    "llama 3": Tiny("llama", {"rope_parameters": _LLAMA3}, "llama3"),
    "llama, space marks": Tiny("llama", {"rope_parameters": _LINEAR}, "zephyr, prefixed"),
    "mistral": Tiny("mistral", {"sliding_window": 300}, "mistral"),
    "qwen2": Tiny("qwen2", {}),
    "qwen3": Tiny("qwen3", {"head_dim": 24}, "rewriting"),
    "smollm3": Tiny("smollm3", {"num_hidden_layers": 4}),
    "phi3": Tiny("phi3", {"sliding_window": 400}, "phi"),
    "phi3, longrope": Tiny("phi3", _EXTENDED, "phi"),
    "gemma2": Tiny("gemma2", {"sliding_window": 40, "num_hidden_layers": 4, "query_pre_attn_scalar": 16}, "gemma"),
    "gemma3": Tiny("gemma3_text", {"sliding_window": 40, "num_hidden_layers": 7, "query_pre_attn_scalar": 16}, "gemma"),
    "gpt2": Tiny("gpt2", {}, None),
}


def make_model(name: str, **changes: Any) -> ConversationModel:
    """Makes a model; `changes` are settings of its config."""
    tiny = MODELS[name]
    hf_tokenizer = _separator_tokenizer() if tiny.form is None else _form_tokenizer(tiny.form)
    is_gpt2 = tiny.model_type == "gpt2"
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "max_position_embeddings": POSITIONS}
    gated = {"intermediate_size": 96, "num_key_value_heads": 2, "head_dim": 16}
    ids = {"bos_token_id": 0, "eos_token_id": hf_tokenizer.eos_token_id, "pad_token_id": 0}
    # More rows than entries, as many published models have.
    settings = sizes | ({} if is_gpt2 else gated) | ids | {"vocab_size": len(hf_tokenizer) + 3}
    config = AutoConfig.for_model(tiny.model_type, **settings | dict(tiny.settings) | changes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        hf_model: PreTrainedModel = AutoModelForCausalLM.from_config(config).eval()
        for key, parameter in hf_model.named_parameters():
            if "norm" in key or "bias" in key or ".ln_" in key:
                torch.nn.init.normal_(parameter, 0.0 if "gemma" in name or "bias" in key else 1.0, 0.3)
    hf_model.get_output_embeddings().weight.data.mul_(4.0)
    tokenizer = ConversationTokenizer(hf_tokenizer, use_token_types=False)
    return ConversationModel(enliven(hf_model, 6.0), tokenizer)


def _form_tokenizer(name: str) -> PreTrainedTokenizerBase:
    form = FORMS[name]
    return make_tokenizer(form.template, form.specials, has_prefix=form.has_prefix)


def _separator_tokenizer() -> PreTrainedTokenizerBase:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    train_bpe(backend, ["<|endoftext|>"])
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<|endoftext|>", eos_token="<|endoftext|>")
