"""Small decoders of random shapes, of every family whose parts convmodel knows."""

import random
from collections.abc import Callable
from typing import Any

import torch
from scripted import enliven
from transformers import AutoConfig, PreTrainedModel
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

VOCABULARY = 97


def rotary(shape: dict[str, Any], kind: str) -> dict[str, Any]:
    settings = {
        "default": {},
        "linear": {"factor": 2.0},
        "yarn": {"factor": 2.0, "original_max_position_embeddings": 64},
        "llama3": {
            "factor": 4.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    }
    return shape | {"rope_parameters": {"rope_type": kind, "rope_theta": 1000.0} | settings[kind]}


FAMILIES: dict[str, Callable[[dict[str, Any], random.Random], dict[str, Any]]] = {
    "llama": lambda shape, rng: (
        rotary(shape, rng.choice(["default", "linear", "yarn", "llama3"]))
        | {"attention_bias": rng.random() < 0.5, "mlp_bias": rng.random() < 0.5}
    ),
    "mistral": lambda shape, rng: shape | {"sliding_window": rng.choice([None, 1, 5, 100])},
    "qwen2": lambda shape, rng: (
        shape | {"use_sliding_window": rng.random() < 0.5, "sliding_window": rng.choice([3, 9]), "max_window_layers": 1}
    ),
    "qwen3": lambda shape, rng: shape | {"attention_bias": rng.random() < 0.5},
    "smollm3": lambda shape, rng: shape | {"no_rope_layer_interval": 2},
    "phi3": lambda shape, rng: rotary(shape, "default") | {"sliding_window": rng.choice([None, 4])},
    "gemma2": lambda shape, rng: shape | {"sliding_window": 6, "attn_implementation": "eager"},
    "gemma3_text": lambda shape, rng: (
        shape
        | {"sliding_window": rng.choice([2, 7]), "sliding_window_pattern": 2, "query_pre_attn_scalar": 20}
        | {"final_logit_softcapping": rng.choice([None, 3.0])}
    ),
}


def make(name: str, seed: int) -> PreTrainedModel:
    """A model of a random shape: heads and their groups, widths, layers, what its family can vary."""
    rng = random.Random(f"{name} {seed}")
    shared, groups, size = rng.choice([1, 2, 3]), rng.choice([1, 2, 3]), rng.choice([8, 16])
    shape = {
        "vocab_size": VOCABULARY,
        "hidden_size": shared * groups * (size if name == "phi3" else 8 * rng.randint(1, 3)),
        "head_dim": size,
        "intermediate_size": 8 * rng.randint(2, 6),
        "num_hidden_layers": rng.randint(1, 4),
        "num_attention_heads": shared * groups,
        "num_key_value_heads": shared,
        "max_position_embeddings": 256,
        "tie_word_embeddings": rng.random() < 0.5,
        "hidden_act": rng.choice(["silu", "gelu_pytorch_tanh"]),
        **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
    }
    torch.manual_seed(seed)
    config = AutoConfig.for_model(name, **FAMILIES[name](shape, rng))
    hf_model: PreTrainedModel = AutoModelForCausalLM.from_config(config).eval()
    for parameter_name, parameter in hf_model.named_parameters():
        if "norm" in parameter_name or "bias" in parameter_name:
            torch.nn.init.normal_(parameter, 1.0, 0.5)  # those of a new model are all the same
    hf_model.get_output_embeddings().weight.data.mul_(4.0)
    return enliven(hf_model, 12.0)
