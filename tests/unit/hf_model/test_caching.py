"""Which models keep nothing but keys and values."""

from typing import Any

import pytest
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    GPT2Config,
    LlamaConfig,
    MambaConfig,
    MistralConfig,
    OpenAIGPTConfig,
    XLMConfig,
)

from convmodel.hf_model.caching import cache_among, cache_argument, can_be_cached

SHAPE: dict[str, Any] = {
    "vocab_size": 9,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
}
ENDS = {"bos_token_id": 1, "eos_token_id": 2}


@pytest.mark.parametrize(
    ("config", "cached"),
    [
        (GPT2Config(vocab_size=9, n_embd=4, n_layer=1, n_head=1, **ENDS), True),
        (LlamaConfig(**SHAPE), True),
        (MistralConfig(**SHAPE, num_key_value_heads=1, sliding_window=8), True),
        (BloomConfig(vocab_size=9, hidden_size=8, n_layer=1, n_head=2), True),
        (MambaConfig(vocab_size=9, hidden_size=8, num_hidden_layers=1), False),  # a recurrent state
        (OpenAIGPTConfig(vocab_size=9, n_embd=4, n_layer=1, n_head=1), False),  # no cache
        (XLMConfig(vocab_size=9, emb_dim=4, n_layers=1, n_heads=1, causal=True), False),  # one of its own kind
        (LlamaConfig(**SHAPE, rope_parameters={"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}), False),
    ],
    ids=lambda value: getattr(value, "model_type", None),
)
def test_which_models_can_be_cached(config: Any, cached: bool) -> None:
    assert can_be_cached(AutoModelForCausalLM.from_config(config)) == cached


@pytest.mark.parametrize("name", ["past_key_values", "cache"])
def test_a_cache_is_given_by_the_name_that_the_installed_transformers_has(name: str) -> None:
    model = AutoModelForCausalLM.from_config(LlamaConfig(**SHAPE))
    model.forward = {
        "past_key_values": lambda past_key_values, position_ids: None,
        "cache": lambda cache, position_ids: None,
    }[name]

    assert cache_argument(model) == name
    assert can_be_cached(model)
    cache = object()
    assert cache_among({"use_cache": True, name: cache}) is cache
    assert cache_among({"use_cache": True, name: None}) is None


def test_a_model_without_a_cache_has_no_name_for_it() -> None:
    assert cache_argument(AutoModelForCausalLM.from_config(OpenAIGPTConfig(vocab_size=9, n_embd=4, n_head=1))) is None
