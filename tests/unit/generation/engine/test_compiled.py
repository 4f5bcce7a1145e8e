"""Which decoders the compiled kernels compute; that they do so rightly is tested with the lean pass."""

from typing import Any

import pytest
import torch
from transformers import GPT2Config, LlamaConfig
from transformers.models.auto.modeling_auto import AutoModelForCausalLM

from convmodel.generation.engine.compiled import can_be_compiled
from convmodel.generation.engine.kv_cache import KVCache
from convmodel.generation.engine.lean import LeanForward, NewTokens
from convmodel.hf_model.decoder import decoder_of
from convmodel.hf_model.int8_layers import int8_linear
from convmodel.hf_model.quantization import quantize_weights

SHAPE: dict[str, Any] = {
    "vocab_size": 9,
    "hidden_size": 8,
    "intermediate_size": 8,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    **{"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2},
}
GPT2 = {"vocab_size": 9, "n_embd": 4, "n_layer": 1, "n_head": 1, "n_positions": 8, "bos_token_id": 0, "eos_token_id": 0}


@pytest.mark.parametrize(
    ("config", "dtype", "compiled"),
    [
        (LlamaConfig(**SHAPE), torch.float32, True),
        (LlamaConfig(**SHAPE, hidden_act="gelu_pytorch_tanh"), torch.float32, True),
        (LlamaConfig(**SHAPE, hidden_act="relu"), torch.float32, False),
        (LlamaConfig(**SHAPE), torch.bfloat16, False),
        (GPT2Config(**GPT2), torch.float32, False),  # its matrices are transposed
    ],
)
def test_which_decoders_can_be_compiled(config: Any, dtype: torch.dtype, compiled: bool) -> None:
    hf_model = AutoModelForCausalLM.from_config(config, dtype=dtype)
    assert can_be_compiled(decoder_of(hf_model)) == compiled


def test_packed_weights_can_be_compiled_whatever_they_were() -> None:
    hf_model = AutoModelForCausalLM.from_config(GPT2Config(**GPT2)).eval()
    quantize_weights(hf_model, "int8")
    assert can_be_compiled(decoder_of(hf_model))


def test_layers_of_which_one_is_packed_are_not_joined() -> None:
    torch.manual_seed(0)
    hf_model: Any = AutoModelForCausalLM.from_config(LlamaConfig(**SHAPE)).eval()
    ids = torch.arange(5)[None]
    with torch.inference_mode():
        attention = hf_model.model.layers[0].self_attn
        attention.q_proj = int8_linear(attention.q_proj.weight, None)
        decoder = decoder_of(hf_model)
        assert not can_be_compiled(decoder)
        found = LeanForward(decoder)([NewTokens(ids, None, ids, KVCache(2))])
        torch.testing.assert_close(found, hf_model(ids).logits[:, -1], atol=1e-5, rtol=1e-5)


def test_without_the_extension_nothing_is_compiled(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convmodel.hf_model.kernels.native", None)
    assert not can_be_compiled(decoder_of(AutoModelForCausalLM.from_config(LlamaConfig(**SHAPE))))


def test_a_step_makes_room_in_the_cache() -> None:
    torch.manual_seed(0)
    forward = LeanForward(decoder_of(AutoModelForCausalLM.from_config(LlamaConfig(**SHAPE)).eval()))
    ids, cache = torch.arange(9)[None], KVCache(2, room=3)
    with torch.inference_mode():
        whole = forward([NewTokens(ids, None, torch.arange(9)[None], KVCache(2))])
        for place in range(9):
            last = forward([NewTokens(ids[:, place, None], None, torch.tensor([[place]]), cache)])
    torch.testing.assert_close(last, whole, atol=1e-6, rtol=1e-5)
    assert cache.length == 9
