"""Hashes of weights: the values that users' files hold stay what they are."""

import copy
from collections.abc import Callable
from typing import Any

import pytest
import torch
from peft import LoraConfig
from transformers import GPT2Config, GPT2LMHeadModel

from convmodel.hf_model.fingerprint import base_fingerprint, model_fingerprint, weights_version
from convmodel.hf_model.int8_layers import int8_linear
from convmodel.hf_model.quantization import quantize_weights


@pytest.fixture
def hf_model() -> GPT2LMHeadModel:
    """A model of weights that depend on no random generator."""
    hf_model = GPT2LMHeadModel(
        GPT2Config(n_layer=1, n_head=1, n_embd=4, n_positions=8, vocab_size=10, bos_token_id=0, eos_token_id=0)
    )
    with torch.no_grad():
        for number, weight in enumerate(hf_model.parameters()):
            weight.copy_((torch.arange(weight.numel()) * 0.37 + number).sin().view(weight.shape))
    return hf_model


def test_a_base_has_the_fingerprint_that_saved_adapters_hold(hf_model: GPT2LMHeadModel) -> None:
    assert base_fingerprint(hf_model) == "ab2c1521fa385571"
    assert base_fingerprint(hf_model.to(torch.bfloat16)) == "ab2c1521fa385571"


def test_a_model_fingerprint_covers_settings_and_weights(hf_model: GPT2LMHeadModel) -> None:
    first = model_fingerprint(hf_model)
    assert first.startswith("gpt2 ")
    assert len(first) == len("gpt2 ") + 12
    hf_model.name_or_path = "elsewhere"
    assert model_fingerprint(hf_model) == first

    hf_model.config.layer_norm_epsilon = 1e-3
    changed = {first, model_fingerprint(hf_model)}
    with torch.no_grad():
        hf_model.transformer.wte.weight[0, 0] += 1
    changed.add(model_fingerprint(hf_model))
    assert len(changed) == 3


def test_of_packed_weights_it_is_what_they_were(hf_model: GPT2LMHeadModel) -> None:
    other = copy.deepcopy(hf_model)
    with torch.no_grad():
        other.transformer.h[0].mlp.c_fc.weight += 1  # and the same norms
    bases = [base_fingerprint(each) for each in (hf_model, other)]

    for each in (hf_model, other):
        quantize_weights(each, "int8")

    assert [base_fingerprint(each) for each in (hf_model, other)] == bases
    assert model_fingerprint(hf_model) != model_fingerprint(other)


def test_the_version_changes_with_weights_in_place_and_replaced(hf_model: GPT2LMHeadModel) -> None:
    first = weights_version(hf_model)
    assert weights_version(hf_model) == first

    with torch.no_grad():
        hf_model.transformer.wte.weight.add_(1)
    second = weights_version(hf_model)
    hf_model.transformer.wte.weight.data = hf_model.transformer.wte.weight.data.clone()
    assert len({first, second, weights_version(hf_model)}) == 3


def test_a_change_that_torch_does_not_count_is_seen(hf_model: GPT2LMHeadModel) -> None:
    weight = hf_model.transformer.wte.weight
    first = weights_version(hf_model)
    weight.detach().numpy()[:] += 1  # as fused optimizers write
    assert weights_version(hf_model) != first


def edit_all_but_the_middle(weight: torch.Tensor) -> None:
    change = torch.randn(weight.shape, generator=torch.Generator().manual_seed(1))
    change[tuple(size // 2 for size in weight.shape)] = 0
    weight.data.add_(change)


@pytest.mark.parametrize("name", ["wte.weight", "h.0.attn.c_attn.weight", "h.0.mlp.c_proj.bias", "ln_f.weight"])
@pytest.mark.parametrize(
    "edit",
    [
        edit_all_but_the_middle,
        lambda weight: weight.data[0].fill_(3),
        lambda weight: weight.data[..., -1].fill_(3),
        lambda weight: weight.data.view(-1)[1].fill_(3),
        lambda weight: weight.data.mul_(1.01),
        lambda weight: weight.set_(weight.detach().clone()),
        lambda weight: setattr(weight, "data", weight.data + 1),
    ],
)
def test_an_edit_of_a_small_model_is_always_seen(
    hf_model: GPT2LMHeadModel, name: str, edit: Callable[[torch.Tensor], object]
) -> None:
    first = weights_version(hf_model)
    with torch.no_grad():
        edit(hf_model.transformer.get_parameter(name))
    assert weights_version(hf_model) != first


def test_edits_of_large_matrices_are_seen_where_they_change_a_column_or_much(hf_model: GPT2LMHeadModel) -> None:
    hf_model.transformer.h[0].mlp.c_fc.weight = torch.nn.Parameter(torch.zeros(400, 500))
    weight = hf_model.transformer.h[0].mlp.c_fc.weight
    versions = {weights_version(hf_model)}
    for place in ((slice(None), 17), slice(30, 130), slice(None)):  # a column, rows, everything
        weight.data[place] += 1
        versions.add(weights_version(hf_model))
    assert len(versions) == 4


def test_edits_of_buffers_and_of_a_quantized_model_are_seen(hf_model: GPT2LMHeadModel) -> None:
    hf_model.transformer.register_buffer("scale", torch.ones(3))
    quantize_weights(hf_model, "int8")
    layer = hf_model.transformer.h[0].attn.c_attn
    versions = {weights_version(hf_model)}
    for tensor in (hf_model.transformer.scale, layer.bias, layer.scales, hf_model.transformer.ln_f.weight):
        tensor.data[1] += 1
        versions.add(weights_version(hf_model))
    hf_model.transformer.h[0].attn.c_attn = int8_linear(torch.ones(layer.out_features, layer.in_features), layer.bias)
    versions.add(weights_version(hf_model))
    assert len(versions) == 6


@pytest.mark.filterwarnings("ignore:Already found a `peft_config` attribute:UserWarning")  # of two adapters
def test_adapters_that_are_used_in_another_way_are_seen(hf_model: GPT2LMHeadModel) -> None:
    rows = {"transformer.wte": [1]}
    for name in ("other", "default"):  # the last one is active
        hf_model.add_adapter(LoraConfig(r=2, fan_in_fan_out=True, trainable_token_indices=rows), name)
    layer: Any = hf_model.transformer.h[0].attn.c_attn
    embedding: Any = hf_model.transformer.wte
    first = weights_version(hf_model)
    versions = [first]
    for change in (
        hf_model.disable_adapters,
        lambda: layer.enable_adapters(True),
        hf_model.enable_adapters,  # as at first
        lambda: layer.scale_layer(0.5),
        lambda: layer.set_scale("default", 3.0),
        lambda: hf_model.set_adapter("other"),
        lambda: embedding.set_adapter("default"),
        layer.merge,
    ):
        change()
        versions.append(weights_version(hf_model))
    assert versions[3] == first
    assert len({*versions}) == len(versions) - 1
