"""Fused layers compute what transformers' do, and only where they do: values and gradients."""

import copy
import logging
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from random_decoders import FAMILIES, VOCABULARY, make
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from convmodel.data.windows.collate import pack, pad
from convmodel.hf_model import training_kernels
from convmodel.layout.sequence import IGNORED, Window
from convmodel.training.step.forward import plain_forward, prepared
from convmodel.training.step.fused import FusedLayer, fused_layers, unfused

pytestmark = pytest.mark.skipif(training_kernels.native is None, reason="the kernels are not compiled here")

FUSED = sorted(FAMILIES.keys() - {"gemma2"})  # which limits the scores of attention


def windows(*lengths: int) -> list[Window]:
    generator = torch.Generator().manual_seed(1)
    ids = [torch.randint(3, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]
    return [Window(each, [0] * len(each), [IGNORED, *each[1:]]) for each in ids]


PACKED = pack([windows(12, 9, 20), windows(30, 5)], use_token_types=False, multiple=8)
PADDED = pad(windows(17, 33, 2), 0, use_token_types=False, multiple=8)


def are_fused(hf_model: nn.Module) -> list[bool]:
    return [isinstance(vars(layer).get("forward"), FusedLayer) for layer in hf_model.model.layers]


def learned(hf_model: PreTrainedModel, batch: dict[str, Any], **options: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    """The loss of a batch and its gradients, and that the layers are fused or not as `fused` says."""
    fused = options.pop("fused")
    hf_model.zero_grad()
    with prepared(hf_model, **options):
        assert set(are_fused(hf_model)) == {fused}
        loss = hf_model(**batch, total_weight=50.0)
        loss.backward()
    assert not any(are_fused(hf_model))
    return loss.detach(), {name: each.grad for name, each in hf_model.named_parameters() if each.grad is not None}


def require_same(hf_model: PreTrainedModel, batches: Sequence[dict[str, Any]], **options: Any) -> None:
    """Compares fused layers with a copy of the model whose layers have a hook and so are not fused."""
    other = copy.deepcopy(hf_model)
    other.model.layers[0].register_forward_hook(lambda *_: None)
    for batch in batches:
        loss, gradients = learned(hf_model.train(), batch, fused=True, **options)
        right, expected = learned(other.train(), batch, fused=False, **options)
        torch.testing.assert_close(loss, right, rtol=1e-5, atol=1e-6)
        assert gradients.keys() == expected.keys()
        for name, gradient in gradients.items():
            largest = float(expected[name].abs().max())
            torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-4 * largest + 1e-7, msg=name)


@pytest.mark.parametrize("name", FUSED)
def test_loss_and_gradients_are_those_of_transformers_layers(name: str) -> None:
    for seed in range(4):
        require_same(make(name, seed), [PACKED, PADDED])


@pytest.mark.parametrize("options", [{"gradient_checkpointing": True}, {"dropout": 0.1}])
def test_options_of_a_run_change_nothing(options: dict[str, Any]) -> None:
    require_same(make("llama", 0), [PACKED], **options)


@pytest.mark.parametrize("target", ["all-linear", ["q_proj", "up_proj"]])
def test_adapters_are_trained_the_same(target: Any) -> None:
    from peft import LoraConfig

    hf_model = make("llama", 1)
    torch.manual_seed(0)
    hf_model.add_adapter(LoraConfig(r=3, lora_alpha=5, target_modules=target, init_lora_weights=False))
    require_same(hf_model, [PACKED, PADDED])


def test_adapters_with_dropout_are_left_to_peft(caplog: pytest.LogCaptureFixture) -> None:
    from peft import LoraConfig

    hf_model = make("llama", 1)
    hf_model.add_adapter(LoraConfig(r=3, lora_dropout=0.5, target_modules="all-linear"))
    with caplog.at_level(logging.DEBUG), fused_layers(hf_model):
        assert not any(are_fused(hf_model))
    assert "training with transformers' layers: it has dropout" in caplog.text


def test_a_half_precise_base_is_trained_in_bf16_only() -> None:
    hf_model = make("llama", 0).bfloat16()
    with fused_layers(hf_model) as batch:
        batch.begin(PACKED)
        inputs = {name: value for name, value in PACKED.items() if name != "labels"}
        plain = hf_model.model(**inputs, use_cache=False).last_hidden_state
        assert plain.dtype == torch.bfloat16
        with torch.autocast("cpu", dtype=torch.bfloat16):
            fused = hf_model.model(**inputs, use_cache=False).last_hidden_state
        torch.testing.assert_close(fused.float(), plain.float(), rtol=0.1, atol=0.1 * float(plain.detach().abs().max()))


def test_bf16_is_as_close_to_float32_as_transformers_layers_are() -> None:
    hf_model = make("llama", 0)
    other = copy.deepcopy(hf_model)
    other.model.layers[0].register_forward_hook(lambda *_: None)
    _, right = learned(hf_model, PACKED, fused=True)
    errors = []
    for model, fused in ((hf_model, True), (other, False)):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            _, gradients = learned(model, PACKED, fused=fused)
        errors.append(sum(float((gradients[name] - each).detach().norm() / each.norm()) for name, each in right.items()))
    assert 0 < errors[0] < 1.2 * errors[1]


def test_a_batch_that_is_padded_on_the_left_is_left_to_transformers() -> None:
    hf_model = make("llama", 0)
    mask = torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])
    inputs = {"input_ids": torch.full((2, 4), 5), "attention_mask": mask}
    expected = hf_model.model(**inputs).last_hidden_state
    with fused_layers(hf_model) as batch:
        batch.begin(inputs)
        assert batch.windows is None
        assert torch.equal(hf_model.model(**inputs).last_hidden_state, expected)


def test_generating_and_validating_use_transformers_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    hf_model, calls = make("llama", 0), []
    called = FusedLayer._attended
    monkeypatch.setattr(FusedLayer, "_attended", lambda *args: calls.append(1) or called(*args))
    with prepared(hf_model):
        calls.clear()
        hf_model(**PACKED, total_weight=1.0)
        assert calls
        calls.clear()
        with plain_forward(hf_model):
            assert not any(are_fused(hf_model))
            hf_model(input_ids=PACKED["input_ids"])
        assert all(are_fused(hf_model))
        hf_model(input_ids=PACKED["input_ids"])
        hf_model(input_ids=PACKED["input_ids"], use_cache=True)
        hf_model.generate(PACKED["input_ids"][:1, :5], max_new_tokens=2, do_sample=False)
        assert not calls


def test_layers_that_compute_something_else_are_not_used(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hf_model, called = make("llama", 0), FusedLayer._attended
    monkeypatch.setattr(FusedLayer, "_attended", lambda *args: 1.01 * called(*args))
    with fused_layers(hf_model):
        assert not any(are_fused(hf_model))
    [record] = caplog.records
    assert record.message == "training with transformers' layers, since the fused ones compute something else"


@pytest.mark.parametrize("reason", ["not compiled", "torch_compile", "layer norms", "another activation", "gemma2"])
def test_what_cannot_be_fused_is_trained_as_before(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = {"vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    hf_model: Any = make("gemma2", 0) if reason == "gemma2" else make("llama", 0)
    if reason == "not compiled":
        monkeypatch.setattr(training_kernels, "native", None)
    if reason == "layer norms":
        hf_model = GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=1, n_head=2))
    if reason == "another activation":
        hf_model = LlamaForCausalLM(LlamaConfig(**shape, num_attention_heads=2, hidden_act="relu"))
    with fused_layers(hf_model, enabled=reason != "torch_compile"):
        assert not any("forward" in vars(module) for module in hf_model.modules())


def test_a_forward_of_the_callers_comes_back() -> None:
    hf_model = make("llama", 0)
    layer = hf_model.model.layers[0]
    own = layer.forward = type(layer).forward.__get__(layer)
    with fused_layers(hf_model):
        assert all(are_fused(hf_model))
        with pytest.raises(RuntimeError, match="inside"), unfused(hf_model):
            raise RuntimeError("inside")
        assert all(are_fused(hf_model))
    assert vars(layer)["forward"] is own
