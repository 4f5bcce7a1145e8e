"""Fused layers compute what transformers' do, and only where they do: values and gradients."""

import copy
import logging
from collections.abc import Sequence
from typing import Any

import pytest
import torch
from random_decoders import FAMILIES, VOCABULARY, make
from scripted import enliven
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM, PreTrainedModel

from convmodel.data.windows.collate import pack, pad
from convmodel.hf_model import training_kernels
from convmodel.layout.sequence import IGNORED, Window
from convmodel.training.step.forward import plain_forward, prepared
from convmodel.training.step.fused import Fused, FusedLayer, fused_layers, unfused

pytestmark = pytest.mark.skipif(training_kernels.native is None, reason="the kernels are not compiled here")

FUSED = sorted(FAMILIES.keys() - {"gemma2"})  # which limits the scores of attention


def windows(*lengths: int) -> list[Window]:
    generator = torch.Generator().manual_seed(1)
    ids = [torch.randint(3, VOCABULARY, (length,), generator=generator).tolist() for length in lengths]
    return [Window(each, [0] * len(each), [IGNORED, *each[1:]]) for each in ids]


PACKED = pack([windows(12, 9, 20), windows(30, 5)], use_token_types=False, multiple=8)
PADDED = pad(windows(17, 33, 2), 0, use_token_types=False, multiple=8)


def are_fused(hf_model: nn.Module) -> bool:
    return any(isinstance(vars(module).get("forward"), Fused) for module in hf_model.modules())


def left_alone(hf_model: PreTrainedModel) -> PreTrainedModel:
    """A copy whose layers are not fused, since it has a hook."""
    other = copy.deepcopy(hf_model)
    other.get_input_embeddings().register_forward_hook(lambda *_: None)
    return other


def gpt2(**options: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    shape = {"vocab_size": VOCABULARY, "n_embd": 48, "n_layer": 2, "n_head": 3, "n_positions": 128}
    return enliven(GPT2LMHeadModel(GPT2Config(**shape, **options)), 8.0)


def learned(hf_model: PreTrainedModel, batch: dict[str, Any], **options: Any) -> tuple[Any, dict[str, torch.Tensor]]:
    """The loss of a batch and its gradients, and that the layers are fused or not as `fused` says."""
    fused = options.pop("fused")
    hf_model.zero_grad()
    with prepared(hf_model, **options):
        assert are_fused(hf_model) == fused
        loss = hf_model(**batch, total_weight=50.0)
        loss.backward()
    assert not are_fused(hf_model)
    return loss.detach(), {name: each.grad for name, each in hf_model.named_parameters() if each.grad is not None}


def require_same(hf_model: PreTrainedModel, batches: Sequence[dict[str, Any]], **options: Any) -> None:
    """Compares fused layers with those of a copy of the model that are not."""
    other = left_alone(hf_model)
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


@pytest.mark.parametrize("settings", [{}, {"scale_attn_by_inverse_layer_idx": True}, {"attn_implementation": "eager"}])
def test_gpt2s_attention_is_fused(settings: dict[str, Any]) -> None:
    types = {"token_type_ids": PACKED["input_ids"] % 2}
    require_same(gpt2(**settings), [PACKED, PADDED, PACKED | types], dropout=0.0)
    require_same(gpt2(**settings), [PACKED], gradient_checkpointing=True)


def test_gpt2s_dropout_stays() -> None:
    hf_model, losses = gpt2().train(), []
    for fused in (True, False):
        torch.manual_seed(1)
        losses.append(learned(hf_model if fused else left_alone(hf_model), PACKED, fused=fused, dropout=0.3)[0])
    torch.testing.assert_close(*losses, rtol=1e-5, atol=1e-6)
    torch.manual_seed(2)
    assert not torch.isclose(learned(hf_model, PACKED, fused=True, dropout=0.3)[0], losses[0], rtol=1e-4)


@pytest.mark.parametrize("options", [{"gradient_checkpointing": True}, {"dropout": 0.1}])
def test_options_of_a_run_change_nothing(options: dict[str, Any]) -> None:
    require_same(make("llama", 0), [PACKED], **options)


@pytest.mark.parametrize(
    ("family", "target"), [("llama", "all-linear"), ("llama", ["q_proj", "up_proj"]), ("gpt2", ["c_attn"])]
)
def test_adapters_are_trained_the_same(family: str, target: Any) -> None:
    from peft import LoraConfig

    hf_model = make("llama", 1) if family == "llama" else gpt2()
    torch.manual_seed(0)
    hf_model.add_adapter(
        LoraConfig(r=3, lora_alpha=5, target_modules=target, init_lora_weights=False, fan_in_fan_out=family == "gpt2")
    )
    require_same(hf_model, [PACKED, PADDED])


def test_adapters_with_dropout_are_left_to_peft(caplog: pytest.LogCaptureFixture) -> None:
    from peft import LoraConfig

    hf_model = make("llama", 1)
    hf_model.add_adapter(LoraConfig(r=3, lora_dropout=0.5, target_modules="all-linear"))
    with caplog.at_level(logging.DEBUG), fused_layers(hf_model):
        assert not are_fused(hf_model)
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
    other = left_alone(hf_model)
    _, right = learned(hf_model, PACKED, fused=True)
    errors = []
    for model, fused in ((hf_model, True), (other, False)):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            _, gradients = learned(model, PACKED, fused=fused)
        errors.append(
            sum(float((gradients[name] - each).detach().norm() / each.norm()) for name, each in right.items())
        )
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
            assert not are_fused(hf_model)
            hf_model(input_ids=PACKED["input_ids"])
        assert are_fused(hf_model)
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
        assert not are_fused(hf_model)
    [record] = caplog.records
    assert record.message == "training with transformers' layers, since the fused ones compute something else"


@pytest.mark.parametrize("reason", ["not compiled", "torch_compile", "another activation", "gemma2"])
def test_what_cannot_be_fused_is_trained_as_before(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = {"vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    hf_model: Any = make("gemma2", 0) if reason == "gemma2" else make("llama", 0)
    if reason == "not compiled":
        monkeypatch.setattr(training_kernels, "native", None)
    if reason == "another activation":
        hf_model = LlamaForCausalLM(LlamaConfig(**shape, num_attention_heads=2, hidden_act="relu"))
    with fused_layers(hf_model, enabled=reason != "torch_compile"):
        assert not any("forward" in vars(module) for module in hf_model.modules())


def test_a_forward_of_the_callers_comes_back() -> None:
    hf_model = make("llama", 0)
    layer = hf_model.model.layers[0]
    own = layer.forward = type(layer).forward.__get__(layer)
    with fused_layers(hf_model):
        assert are_fused(hf_model)
        with pytest.raises(RuntimeError, match="inside"), unfused(hf_model):
            raise RuntimeError("inside")
        assert are_fused(hf_model)
    assert vars(layer)["forward"] is own
