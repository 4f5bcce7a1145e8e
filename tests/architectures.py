"""Tiny models of many architectures, with one small byte-level tokenizer.

Owns: the smallest settings of each architecture. Knows nothing of convmodel.
"""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerFast

import tokenizers_zoo

_COMMON = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
}
_GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
_MAMBA = {"hidden_size": 32, "num_hidden_layers": 2, "state_size": 8}
_EXPERTS = {"num_experts_per_tok": 2, "moe_intermediate_size": 32}
_BART = {
    "d_model": 32, "decoder_layers": 2, "decoder_attention_heads": 4, "decoder_ffn_dim": 64, "is_decoder": True,
    "is_encoder_decoder": False, "max_position_embeddings": 256, "forced_eos_token_id": None,
}  # fmt: skip

SETTINGS: dict[str, dict[str, Any]] = {
    "bart": _BART,
    "bert": _COMMON,
    "ctrl": _GPT2 | {"dff": 64},
    "falcon": _COMMON | {"new_decoder_architecture": True, "num_kv_heads": 2},
    "gemma2": _COMMON | {"head_dim": 8, "query_pre_attn_scalar": 8},
    "gemma3_text": _COMMON | {"head_dim": 8, "query_pre_attn_scalar": 8},
    "gemma3n_text": _COMMON
    | {
        "intermediate_size": [64, 64], "head_dim": 8, "num_kv_shared_layers": 0, "laurel_rank": 4,
        "altup_num_inputs": 2, "hidden_size_per_layer_input": 8,
        "activation_sparsity_pattern": [0.0, 0.0], "vocab_size_per_layer_input": 260,
    },
    "git": _COMMON | {"vision_config": _COMMON | {"image_size": 8, "patch_size": 4}},
    "gpt2": _GPT2,
    "gpt_neox": _COMMON,
    "gptj": _GPT2 | {"n_inner": 64, "rotary_dim": 8},
    "jamba": _COMMON
    | {
        "attn_layer_period": 2, "attn_layer_offset": 1, "expert_layer_period": 2, "expert_layer_offset": 1,
        "num_experts": 4, "num_experts_per_tok": 2, "mamba_d_state": 8, "mamba_dt_rank": 4, "use_mamba_kernels": False,
    },
    "laguna": _COMMON
    | _EXPERTS
    | {
        "head_dim": 8, "num_experts": 4, "shared_expert_intermediate_size": 32, "layer_types": None,
        "mlp_layer_types": None,
    },
    "llama": _COMMON,
    "llama4_text": _COMMON
    | {
        "head_dim": 8, "num_local_experts": 4, "num_experts_per_tok": 1, "interleave_moe_layer_step": 1,
        "intermediate_size_mlp": 64,
    },
    "mamba": _MAMBA,
    "marian": _BART,
    "mixtral": _COMMON | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "moshi": _COMMON | {"num_codebooks": 2, "audio_vocab_size": 32},
    "olmo": _COMMON,
    "phi": _COMMON,
    "phi3": _COMMON,
    "phimoe": _COMMON | {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": _COMMON | _EXPERTS | {"head_dim": 8, "num_experts": 4},
    "roberta": _COMMON,
    "rwkv": {"hidden_size": 32, "attention_hidden_size": 32, "num_hidden_layers": 2, "intermediate_size": 64},
    "xlstm": {"hidden_size": 32, "embedding_dim": 32, "num_blocks": 2, "num_heads": 4, "chunk_size": 16},
}  # fmt: skip
"""The settings of a tiny model by transformers' name of its architecture."""


def save_tiny(folder: Path, name: str, **settings: Any) -> None:
    """Saves a random model of an architecture, whose responses vary with the prompt; `settings` replace its own."""
    tokenizers_zoo.save(folder, byte_tokenizer(), partial(_make, name, settings))


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """A vocabulary of the 256 bytes, padding, and an end of text that also begins one."""
    words = ["<pad>", "<end>", *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Tokenizer(models.BPE({word: index for index, word in enumerate(words)}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", eos_token="<end>")


def _make(name: str, settings: dict[str, Any], vocab_size: int, **special_ids: int | None) -> PreTrainedModel:
    chosen = SETTINGS[name] | {"vocab_size": vocab_size, "pad_token_id": 0} | special_ids | settings
    hf_model: PreTrainedModel = AutoModelForCausalLM.from_config(AutoConfig.for_model(name, **chosen))
    with torch.no_grad():
        for path, weight in hf_model.named_parameters():
            if weight.ndim >= 2 and "embed" not in path and "conv" not in path and "A_log" not in path:
                weight.mul_(6.0)
    return hf_model
