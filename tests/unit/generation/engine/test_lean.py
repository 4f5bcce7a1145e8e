"""The lean forward pass: equal to transformers' for every family whose parts are known."""

import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from scripted import enliven
from transformers import AutoConfig, GPT2LMHeadModel, PreTrainedModel
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from convmodel.generation.engine.forward import Forward, HFForward
from convmodel.generation.engine.kv_cache import KVCache
from convmodel.generation.engine.lean import LeanForward, NewTokens
from convmodel.hf_model.decoder import decoder_of

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
STEPS = ((0, 12), (12, 13), (13, 21), (21, 22), (22, 23))


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


@torch.inference_mode()
def logits(forward: Forward, *, types: bool = False) -> torch.Tensor:
    """Of a prompt and what follows it, and of two such sequences of unequal length in a batch."""
    rows, caches = [], []
    ids = torch.randint(VOCABULARY, (2, 40), generator=torch.Generator().manual_seed(1))
    for row, steps in zip(ids, (STEPS, STEPS[:2]), strict=True):
        cache = KVCache(forward.layers)
        for begin, end in steps:
            new = row[None, begin:end]
            rows.append(forward([NewTokens(new, new % 2 if types else None, torch.arange(begin, end)[None], cache)]))
        caches.append((cache, [0]))
    batch = KVCache.merge(caches)
    for step in range(2):
        new, positions = ids[:, 30 + step, None], torch.tensor([[23 + step], [13 + step]])
        parts = [NewTokens(new, new % 2 if types else None, positions, batch)]
        if not step:  # with a prompt in the same pass
            prompt = ids[:1, 3:10]
            parts.append(
                NewTokens(prompt, prompt % 2 if types else None, torch.arange(7)[None], KVCache(forward.layers))
            )
        rows.append(forward(parts))
    return torch.cat(rows)


@pytest.mark.parametrize("compiled", [True, False])
@pytest.mark.parametrize("name", FAMILIES)
def test_logits_are_those_of_transformers(name: str, compiled: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if not compiled:
        monkeypatch.setattr("convmodel.hf_model.kernels.native", None)
    for seed in range(10):
        hf_model = make(name, seed)
        found, expected = (logits(each) for each in (LeanForward(decoder_of(hf_model)), HFForward(hf_model)))
        torch.testing.assert_close(found, expected, atol=2e-4, rtol=0)
        assert expected.std() > 0.1


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("types", [True, False])
@pytest.mark.parametrize("settings", [{}, {"activation_function": "relu"}, {"scale_attn_by_inverse_layer_idx": True}])
def test_logits_of_gpt2_are_those_of_transformers(attention: str, types: bool, settings: dict[str, Any]) -> None:
    torch.manual_seed(0)
    shape = {"vocab_size": VOCABULARY, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 256}
    config = AutoConfig.for_model("gpt2", **shape, bos_token_id=1, eos_token_id=2, **settings)
    hf_model = enliven(GPT2LMHeadModel(config).eval(), 8.0)
    hf_model.set_attn_implementation(attention)
    passes = LeanForward(decoder_of(hf_model)), HFForward(hf_model)
    found, expected = (logits(each, types=types) for each in passes)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert expected.std() > 0.1
