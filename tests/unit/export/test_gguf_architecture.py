"""Which models llama.cpp computes as transformers does, and what is refused."""

from typing import Any

import pytest
import torch
from export_models import MODELS, make_model
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from convmodel.errors import ConfigError
from convmodel.export.gguf_architecture import rotary_factors, shape_of


@pytest.mark.parametrize("name", MODELS)
def test_every_family_has_a_counterpart(name: str) -> None:
    shape = shape_of(make_model(name).hf_model)
    assert shape.architecture.name in name.replace("mistral", "llama")


def test_an_unknown_architecture_is_refused_with_what_there_is() -> None:
    config = GPTNeoXConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8)
    with pytest.raises(ConfigError, match="GPTNeoXForCausalLM cannot be exported to GGUF, only GPT2LMHeadModel"):
        shape_of(GPTNeoXForCausalLM(config))


@pytest.mark.parametrize(
    ("name", "changes", "problem"),
    [
        ("llama", {"hidden_act": "relu"}, "its activation function is relu"),
        ("gpt2", {"activation_function": "gelu"}, "its activation function is gelu"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "not scaled by the square root of the head size"),
        ("gemma3", {"query_pre_attn_scalar": 20}, "not scaled by the square root"),
        ("gemma3", {"final_logit_softcapping": 3.0}, "its config has final_logit_softcapping"),
        ("gemma3", {"layer_types": ["full_attention"] * 7}, "layer 0 differs in whether it attends to a window only"),
        ("smollm3", {"no_rope_layer_interval": 2}, "layer 1 differs in whether it has a rotary embedding"),
        (
            "qwen2",
            {"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}},
            "its rotary scaling is dynamic",
        ),
    ],
)
def test_what_llama_cpp_would_compute_otherwise_is_refused(name: str, changes: dict[str, Any], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        shape_of(make_model(name, **changes).hf_model)


def test_a_changed_model_is_refused() -> None:
    model = make_model("llama").hf_model
    model.model.norm.register_forward_hook(lambda *_: None)
    with pytest.raises(ConfigError, match=r"model\.norm is not the module that transformers made"):
        shape_of(model)


@pytest.mark.parametrize(
    ("name", "positions"), [("llama", 512), ("mistral", 300), ("phi3", 400), ("gemma3", 512), ("phi3, longrope", 256)]
)
def test_positions_end_where_an_unread_window_would_begin_to_matter(name: str, positions: int) -> None:
    assert shape_of(make_model(name).hf_model).context == positions


def test_factors_of_llama_3_divide_plain_frequencies() -> None:
    shape = shape_of(make_model("llama 3").hf_model)
    [factors] = rotary_factors(shape).values()
    plain = 1000.0 ** (-torch.arange(0, 16, 2) / 16)
    torch.testing.assert_close(plain / factors, shape.decoder.rotary_embedding.inv_freq)
    assert factors[[0, -1]].tolist() == pytest.approx([1.0, 4.0])


def test_long_rotary_scaling_has_two_sets_of_factors() -> None:
    long = {
        "rope_type": "longrope",
        "rope_theta": 1000.0,
        "short_factor": [1.0] * 8,
        "long_factor": [2.0] * 8,
        "original_max_position_embeddings": 256,
    }
    shape = shape_of(make_model("phi3", rope_parameters=long).hf_model)
    assert {name: set(values.tolist()) for name, values in rotary_factors(shape).items()} == {
        "rope_factors_long.weight": {2.0},
        "rope_factors_short.weight": {1.0},
    }
