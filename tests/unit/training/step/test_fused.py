"""Fused layers compute what transformers' do, and only where they do: values and gradients."""

import logging
from collections.abc import Callable, Sequence
from typing import Any
from unittest import mock

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
from convmodel.training.step.fused import Batch, Fused, FusedLayer, fused_layers, unfused

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


def gpt2(**options: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    shape = {"vocab_size": VOCABULARY, "n_embd": 48, "n_layer": 2, "n_head": 3, "n_positions": 128}
    return enliven(GPT2LMHeadModel(GPT2Config(**shape, **options)), 8.0)


def learned(
    hf_model: PreTrainedModel, batch: dict[str, Any], *, fused: bool, **options: Any
) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    """The loss of a batch and its gradients, with fused layers or those of transformers."""
    hf_model.zero_grad()
    with mock.patch("convmodel.training.step.fused.are_compiled", return_value=fused), prepared(hf_model, **options):
        assert are_fused(hf_model) == fused
        loss = hf_model(**batch, total_weight=50.0)
        loss.backward()
    assert not are_fused(hf_model)
    found = {name: each.grad.clone() for name, each in hf_model.named_parameters() if each.grad is not None}
    return loss.detach(), found


def require_same(hf_model: PreTrainedModel, batches: Sequence[dict[str, Any]], **options: Any) -> None:
    """Compares fused layers with those of transformers."""
    hf_model.train()
    for batch in batches:
        loss, gradients = learned(hf_model, batch, fused=True, **options)
        right, expected = learned(hf_model, batch, fused=False, **options)
        torch.testing.assert_close(loss, right, rtol=1e-5, atol=1e-6)
        assert gradients.keys() == expected.keys()
        for name, gradient in gradients.items():
            largest = float(expected[name].abs().max())
            torch.testing.assert_close(gradient, expected[name], rtol=1e-3, atol=1e-4 * largest + 1e-7, msg=name)


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Grows by one whenever a fused layer computes."""
    calls, compute = [], FusedLayer._attended
    monkeypatch.setattr(FusedLayer, "_attended", lambda *args: calls.append(1) or compute(*args))
    return calls


@pytest.mark.parametrize("name", FUSED)
def test_loss_and_gradients_are_those_of_transformers_layers(name: str) -> None:
    for seed in range(4):
        require_same(make(name, seed), [PACKED, PADDED])


@pytest.mark.parametrize("settings", [{}, {"scale_attn_by_inverse_layer_idx": True}, {"attn_implementation": "eager"}])
def test_gpt2s_attention_is_fused(settings: dict[str, Any]) -> None:
    types = {"token_type_ids": PACKED["input_ids"] % 2}
    require_same(gpt2(**settings), [PACKED, PADDED, PACKED | types], dropout=0.0)
    require_same(gpt2(**settings), [PACKED], gradient_checkpointing=True)


def test_a_model_may_have_fewer_positions_than_the_trial_has_tokens() -> None:
    hf_model = GPT2LMHeadModel(GPT2Config(vocab_size=VOCABULARY, n_embd=16, n_layer=1, n_head=2, n_positions=4))
    with fused_layers(hf_model):
        assert are_fused(hf_model)


@pytest.mark.parametrize("make_model", [gpt2, lambda: make("phi3", 0)])
def test_dropout_stays(make_model: Callable[[], PreTrainedModel]) -> None:
    hf_model, losses = make_model().train(), []
    for seed, fused in ((1, True), (1, False), (2, True)):
        torch.manual_seed(seed)
        losses.append(learned(hf_model, PACKED, fused=fused, dropout=0.3)[0])
    torch.testing.assert_close(losses[0], losses[1], rtol=1e-5, atol=1e-6)
    assert not torch.isclose(losses[0], losses[2], rtol=1e-4)


def test_layers_are_computed_again_with_gradient_checkpointing(computed: list[int]) -> None:
    hf_model = make("llama", 0).train()
    layers = len(hf_model.model.layers)
    with prepared(hf_model, gradient_checkpointing=True):
        computed.clear()
        loss = hf_model(**PACKED, total_weight=50.0)
        hf_model(**PADDED, total_weight=50.0)  # whose windows are others
        assert len(computed) == 2 * layers
        loss.backward()
        assert len(computed) == 3 * layers
    gradients = [parameter.grad.clone() for parameter in hf_model.parameters() if parameter.grad is not None]
    assert gradients
    for found, expected in zip(gradients, learned(hf_model, PACKED, fused=False)[1].values(), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-3, atol=1e-4 * float(expected.abs().max()) + 1e-7)
    require_same(hf_model, [PACKED], gradient_checkpointing=True)  # once more, though it leaves a hook behind


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
    with caplog.at_level(logging.DEBUG, logger="convmodel"), fused_layers(hf_model):
        assert not are_fused(hf_model)
    assert "training with transformers' layers: it has lora_dropout" in caplog.text


def test_a_half_precise_base_is_trained_in_bf16_only(computed: list[int]) -> None:
    hf_model = make("llama", 0).bfloat16()
    with fused_layers(hf_model) as batch:
        batch.begin(PACKED)
        inputs = {name: value for name, value in PACKED.items() if name != "labels"}
        plain = hf_model.model(**inputs, use_cache=False).last_hidden_state
        assert plain.dtype == torch.bfloat16
        computed.clear()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            fused = hf_model.model(**inputs, use_cache=False).last_hidden_state
        assert computed
        torch.testing.assert_close(fused.float(), plain.float(), rtol=0.1, atol=0.1 * float(plain.detach().abs().max()))


def test_bf16_is_as_close_to_float32_as_transformers_layers_are() -> None:
    hf_model, errors = make("llama", 0), []
    _, right = learned(hf_model, PACKED, fused=True)
    for fused in (True, False):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            _, found = learned(hf_model, PACKED, fused=fused)
        errors.append(sum(float((found[name] - each).norm() / each.norm()) for name, each in right.items()))
    assert 0 < errors[0] < 1.2 * errors[1]


def test_steps_in_bf16_use_the_weights_of_the_step_before() -> None:
    weights = []
    for fused in (True, False):
        hf_model = make("llama", 0).train()
        hf_model.model.layers[0].self_attn.q_proj.requires_grad_(False)  # unlike what it is joined with
        optimizer = torch.optim.AdamW(hf_model.parameters(), lr=1e-2, fused=True)
        with mock.patch("convmodel.training.step.fused.are_compiled", return_value=fused), prepared(hf_model):
            for _ in range(5):
                optimizer.zero_grad()
                with torch.autocast("cpu", dtype=torch.bfloat16):
                    loss = hf_model(**PACKED, total_weight=50.0)
                loss.backward()
                optimizer.step()
        weights.append(loss.item())
    assert weights[0] == pytest.approx(weights[1], rel=0.01)


def test_adapters_that_are_switched_off_are_left_out(computed: list[int]) -> None:
    from peft import LoraConfig

    hf_model = make("llama", 1)
    torch.manual_seed(0)
    hf_model.add_adapter(LoraConfig(r=3, target_modules="all-linear", init_lora_weights=False))
    found = []
    for fused in (True, False):
        with mock.patch("convmodel.training.step.fused.are_compiled", return_value=fused), prepared(hf_model):
            with_adapters = hf_model(**PACKED, total_weight=50.0).item()
            hf_model.disable_adapters()
            computed.clear()
            found.append((with_adapters, hf_model(**PACKED, total_weight=50.0).item()))
            assert bool(computed) == fused
            hf_model.enable_adapters()
    assert found[0] == pytest.approx(found[1], rel=1e-5)
    assert found[0][0] != pytest.approx(found[0][1], rel=1e-3)


IDS = torch.tensor([[5, 6, 7, 8], [9, 8, 7, 6]])
MASKS = {
    "padded on the left": torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]]),
    "with a hole": torch.tensor([[1, 0, 1, 1], [1, 1, 1, 1]]),
    "of pairs": torch.ones(2, 1, 4, 4, dtype=torch.bool).tril(),
}


@pytest.mark.parametrize("mask", MASKS)
def test_other_masks_are_left_to_transformers(mask: str, computed: list[int]) -> None:
    hf_model, inputs = make("llama", 0), {"input_ids": IDS, "attention_mask": MASKS[mask], "use_cache": False}
    expected = hf_model.model(**inputs).last_hidden_state
    with fused_layers(hf_model) as batch:
        computed.clear()
        batch.begin(inputs)
        assert torch.equal(hf_model.model(**inputs).last_hidden_state, expected)
    assert not computed


def test_positions_of_one_row_are_those_of_all(computed: list[int]) -> None:
    hf_model, inputs = make("llama", 0), {"input_ids": IDS, "use_cache": False}
    inputs["position_ids"] = torch.tensor([[3, 4, 0, 1]])
    expected = hf_model.model(**inputs).last_hidden_state
    with fused_layers(hf_model) as batch:
        computed.clear()
        batch.begin(inputs)
        torch.testing.assert_close(hf_model.model(**inputs).last_hidden_state, expected, rtol=1e-4, atol=1e-5)
    assert computed


def test_without_fused_layers_a_batch_is_not_looked_at() -> None:
    batch = Batch()
    batch.begin({"input_ids": torch.zeros(2, 3, device="meta", dtype=torch.long), "attention_mask": None})
    assert batch.windows is None


def test_generating_and_validating_use_transformers_layers(computed: list[int]) -> None:
    hf_model = make("llama", 0)
    with prepared(hf_model):
        computed.clear()
        hf_model(**PACKED, total_weight=1.0)
        assert computed
        computed.clear()
        with plain_forward(hf_model):
            assert not are_fused(hf_model)
            hf_model(input_ids=PACKED["input_ids"])
        assert are_fused(hf_model)
        hf_model(input_ids=PACKED["input_ids"])
        hf_model(input_ids=PACKED["input_ids"], use_cache=True)
        hf_model.generate(PACKED["input_ids"][:1, :5], max_new_tokens=2, do_sample=False)
        assert not computed


def fail(*_: Any) -> torch.Tensor:
    raise RuntimeError("not on this processor")


ATTENDED = FusedLayer._attended


@pytest.mark.parametrize("attended", [lambda *args: 1.01 * ATTENDED(*args), fail])
def test_layers_that_compute_something_else_are_not_used(
    attended: Callable[..., torch.Tensor], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    hf_model = make("llama", 0)
    monkeypatch.setattr(FusedLayer, "_attended", attended)
    with fused_layers(hf_model):
        assert not are_fused(hf_model)
    [record] = caplog.records
    assert record.message == "training with transformers' layers, since the outputs of the fused ones differ"


@pytest.mark.parametrize(
    "reason", ["not compiled", "torch_compile", "another activation", "gemma2", "a hook", "a forward of its own"]
)
def test_what_cannot_be_fused_is_trained_as_before(reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shape = {"vocab_size": VOCABULARY, "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 1}
    hf_model: Any = make("gemma2", 0) if reason == "gemma2" else make("llama", 0)
    if reason == "not compiled":
        monkeypatch.setattr(training_kernels, "native", None)
    if reason == "a hook":
        hf_model.model.layers[0].mlp.up_proj.register_full_backward_hook(lambda *_: None)
    if reason == "a forward of its own":
        layer = hf_model.model.layers[0].self_attn.q_proj
        vars(layer)["forward"] = layer.forward
    if reason == "another activation":
        hf_model = LlamaForCausalLM(LlamaConfig(**shape, num_attention_heads=2, hidden_act="relu"))
    with fused_layers(hf_model, enabled=reason != "torch_compile"):
        assert not are_fused(hf_model)


def test_a_forward_of_the_callers_comes_back() -> None:
    hf_model = make("llama", 0)
    layer = hf_model.model.layers[0]
    own = layer.forward = type(layer).forward.__get__(layer)
    with fused_layers(hf_model):
        assert are_fused(hf_model)
        with unfused(hf_model):
            assert vars(layer)["forward"] is own
        assert are_fused(hf_model)
    assert vars(layer)["forward"] is own
