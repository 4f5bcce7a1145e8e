"""Heads: taken apart where they are one matrix product, left whole where they do more, checked by numbers."""

from typing import Any

import pytest
import torch
from peft import LoraConfig
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    Gemma2Config,
    GPT2Config,
    GPTJConfig,
    LlamaConfig,
    PhiConfig,
    PreTrainedModel,
)

from convmodel.hf_model import lm_head as module
from convmodel.hf_model.int8_matrix import Int8Matrix
from convmodel.hf_model.lm_head import Head, chunk_size
from convmodel.hf_model.lora import inject, train_adapters
from convmodel.hf_model.quantization import quantize_weights

SMALL = {"vocab_size": 61, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
GPT = {"vocab_size": 61, "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 32}


def made(config: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():  # large weights, so that caps and scales show
        for parameter in model.parameters():
            parameter.normal_(std=0.5)
    return model


@pytest.mark.parametrize(
    "config",
    [
        GPT2Config(**GPT),
        GPTJConfig(**GPT, rotary_dim=8),  # its head has a bias
        LlamaConfig(**SMALL, num_key_value_heads=2),
        LlamaConfig(**SMALL, num_key_value_heads=2, tie_word_embeddings=True),
        PhiConfig(**SMALL),
    ],
    ids=["gpt2", "gptj", "llama", "tied llama", "phi"],
)
def test_a_plain_head_gives_the_models_logits_in_chunks(config: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    model = made(config)
    ids = torch.randint(0, 61, (2, 7), generator=torch.Generator().manual_seed(1))
    monkeypatch.setattr(module, "LOGITS_AT_ONCE", 3 * 61)  # three tokens

    head = Head.of(model)

    assert head is not None
    with torch.no_grad():
        parts = [*head.logits(head.hidden(input_ids=ids).flatten(0, 1))]
        whole = model(input_ids=ids, use_cache=False).logits
    assert [len(part) for part in parts] == [3, 3, 3, 3, 2]
    torch.testing.assert_close(torch.cat(parts), whole.flatten(0, 1))


@pytest.mark.parametrize(
    "config",
    [
        Gemma2Config(**SMALL, num_key_value_heads=2, head_dim=8, final_logit_softcapping=2.0),
        CohereConfig(**SMALL, num_key_value_heads=2, logit_scale=0.0625),
    ],
    ids=["capped", "scaled"],
)
def test_a_head_that_does_more_is_left_whole(config: Any) -> None:
    assert Head.of(made(config)) is None


def test_a_cap_is_seen_below_rounded_activations() -> None:
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(Gemma2Config(**SMALL, num_key_value_heads=2, head_dim=8)).eval()
    quantize_weights(model, "int8")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.fill_(1.0)
        model.model.norm.weight.fill_(16.0)  # a cap of 30 then takes between a thousandth and a hundredth off
        assert 2 < model(torch.arange(9)[None]).logits.abs().max() < 5

    assert Head.of(model) is None


@pytest.mark.parametrize("packed", [True, False])
def test_trained_rows_are_in_the_matrix_unless_switched_off(packed: bool) -> None:
    model = made(LlamaConfig(**SMALL, num_key_value_heads=2))
    if packed:
        quantize_weights(model, "int8")
    before = matrix_of(model)
    inject(model, LoraConfig(r=2, target_modules="all-linear", trainable_token_indices={"lm_head": [7]}))
    train_adapters(model)
    [row] = [value for name, value in model.named_parameters() if "trainable_tokens" in name]
    row.data.fill_(3.0)

    changed = matrix_of(model)
    model.disable_adapters()

    assert (changed != before).any(dim=1).nonzero().flatten().tolist() == [7]
    assert torch.equal(changed[7], row[0])
    assert torch.equal(matrix_of(model), before)
    assert Head(model.base_model, model.lm_head).trained_rows is None


def matrix_of(model: Any) -> torch.Tensor:
    weight = Head(model.base_model, model.get_output_embeddings()).weight
    return weight.values(torch.float32) if isinstance(weight, Int8Matrix) else weight.detach().clone()


def test_a_head_that_is_no_linear_layer_is_left_whole() -> None:
    model = made(GPT2Config(**GPT))
    model.lm_head = nn.Sequential(model.lm_head)

    assert Head.of(model) is None


def test_looking_at_a_model_leaves_its_mode() -> None:
    model = made(GPT2Config(**GPT)).train()

    Head.of(model)

    assert all(part.training for part in model.modules())


def test_a_chunk_has_at_least_one_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LOGITS_AT_ONCE", 100)

    assert [chunk_size(torch.empty(rows, 2)) for rows in (10, 40, 99, 1000)] == [10, 2, 1, 1]
