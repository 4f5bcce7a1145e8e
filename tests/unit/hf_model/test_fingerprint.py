"""Hashes of weights: the values that users' files hold stay what they are."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from convmodel.hf_model.fingerprint import base_fingerprint, model_fingerprint, weights_version


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
