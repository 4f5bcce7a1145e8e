"""Trained rows of packed embeddings and heads: as peft computes them over the same values in float."""

from typing import Any

import pytest
import torch
from dequantized import take_values
from peft import LoraConfig
from random_decoders import make

from convmodel.hf_model.int8_layers import exact_products
from convmodel.hf_model.int8_rows import Int8RowsLayer
from convmodel.hf_model.lora import inject, train_adapters
from convmodel.hf_model.quantization import quantize_weights

ROW = 5
IDS = torch.tensor([[1, ROW, 7, ROW, 9]])


@pytest.fixture(params=[("gpt2", True), ("gemma3_text", False), ("gemma2", True), ("llama", False)])
def models(request: pytest.FixtureRequest) -> tuple[Any, Any]:
    """A packed model and a float one with its values; Gemma scales what it embeds, GPT-2 has no norm in between."""
    family, tied = request.param
    return pair(family, tied)


def pair(family: str, tied: bool) -> tuple[Any, Any]:
    models = []
    for _ in range(2):
        if family == "gpt2":
            from transformers import GPT2Config, GPT2LMHeadModel

            torch.manual_seed(0)
            hf_model: Any = GPT2LMHeadModel(GPT2Config(vocab_size=97, n_embd=48, n_layer=1, n_head=3, n_positions=64))
        else:
            hf_model = make(family, 4)
        hf_model.config.tie_word_embeddings = tied
        if tied:
            hf_model.tie_weights()
        models.append(hf_model.eval())
    packed, plain = models
    quantize_weights(packed, "int8")
    take_values(plain, packed)
    embedding, head = plain.get_input_embeddings(), plain.get_output_embeddings()
    layers = [embedding] if tied else [embedding, head]
    names = [name for name, module in plain.named_modules() if module in layers]
    for hf_model in models:
        rows = {name: [ROW] for name in names}
        options: dict[str, Any] = {"target_modules": "all-linear", "fan_in_fan_out": family == "gpt2"}
        inject(hf_model, LoraConfig(**options, trainable_token_indices=rows))
        train_adapters(hf_model)
    return packed, plain


def rows_of(hf_model: Any) -> list[torch.Tensor]:
    return [value for name, value in hf_model.named_parameters() if "trainable_tokens" in name]


def test_they_begin_with_the_values_of_the_matrix(models: tuple[Any, Any]) -> None:
    packed, plain = models
    assert isinstance(packed.get_input_embeddings().token_adapter, Int8RowsLayer)
    torch.testing.assert_close(rows_of(packed), rows_of(plain), rtol=0.0, atol=0.0)


def test_logits_and_gradients_are_pefts(models: tuple[Any, Any]) -> None:
    found = []
    for hf_model in models:
        for row in rows_of(hf_model):
            torch.manual_seed(1)
            row.data += torch.randn_like(row)
        with exact_products(hf_model):
            logits = hf_model(IDS, use_cache=False).logits
            logits.square().sum().backward()
        found.append((logits.detach(), [row.grad for row in rows_of(hf_model)]))
    (ours, our_gradients), (theirs, their_gradients) = found
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)
    for gradient, expected in zip(our_gradients, their_gradients, strict=True):
        assert (gradient - expected).norm() < 1e-5 * expected.norm()


def test_switched_off_they_change_nothing(models: tuple[Any, Any]) -> None:
    packed, _ = models
    with torch.no_grad():
        before = packed(IDS).logits
        for row in rows_of(packed):
            row += torch.linspace(-1, 1, row.shape[1]).square()
        assert not torch.allclose(packed(IDS).logits, before, atol=1e-2)
        packed.disable_adapters()
        torch.testing.assert_close(packed(IDS).logits, before, rtol=1e-3, atol=1e-4)


def test_the_whole_matrix_has_the_rows_and_nothing_is_merged(models: tuple[Any, Any]) -> None:
    packed, plain = models
    for hf_model in models:
        for row in rows_of(hf_model):
            row.data.fill_(0.5)
    weights = [hf_model.get_input_embeddings().weight for hf_model in (packed, plain)]
    torch.testing.assert_close(*weights, rtol=0.0, atol=0.0)
    rows: Any = packed.get_input_embeddings().token_adapter
    rows.merge()
    assert not rows.merged


def test_a_heads_bias_is_added_for_the_rows_too() -> None:
    from transformers import PhiConfig, PhiForCausalLM

    shape: dict[str, Any] = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1}
    torch.manual_seed(0)
    hf_model: Any = PhiForCausalLM(PhiConfig(vocab_size=61, num_attention_heads=2, **shape)).eval()
    hf_model.lm_head.bias.data.normal_()
    quantize_weights(hf_model, "int8")
    with torch.no_grad():
        before = hf_model(IDS).logits
        inject(hf_model, LoraConfig(r=2, target_modules="all-linear", trainable_token_indices={"lm_head": [ROW]}))
        torch.testing.assert_close(hf_model(IDS).logits, before, rtol=1e-3, atol=1e-3)
