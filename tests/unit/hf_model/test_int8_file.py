"""Weights in 8 bits: close to the floats, half the size of half precision, and loaded as any model."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from scripted import enliven
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from convmodel.hf_model.int8_file import INT8_FILE, SCALES, has_int8_file, load_int8_model, save_int8_model


@pytest.fixture(params=[True, False], ids=["tied", "untied"])
def model(request: pytest.FixtureRequest) -> LlamaForCausalLM:
    torch.manual_seed(0)
    sizes = {"vocab_size": 70, "hidden_size": 40, "intermediate_size": 100, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    made = LlamaForCausalLM(LlamaConfig(**sizes, **heads, tie_word_embeddings=request.param))
    enliven(made)
    made.generation_config = GenerationConfig(eos_token_id=[1, 0])
    return made


def empty(model: LlamaForCausalLM) -> LlamaForCausalLM:
    with torch.device("meta"):
        return LlamaForCausalLM(model.config)


def stored(model: LlamaForCausalLM, folder: Path) -> LlamaForCausalLM:
    save_int8_model(model, folder)
    model.generation_config.save_pretrained(folder)
    loaded, report = load_int8_model(folder, empty(model), {})
    assert not any(report.values())
    assert isinstance(loaded, LlamaForCausalLM)
    return loaded


def test_a_value_is_off_by_half_a_step_of_its_block_at_most(model: LlamaForCausalLM, tmp_path: Path) -> None:
    again = stored(model, tmp_path)
    for (name, weight), other in zip(model.named_parameters(), again.parameters(), strict=True):
        assert other.dtype == torch.float32
        if weight.ndim == 1:
            assert torch.equal(other, weight.half().float())
            continue
        for begin in range(0, weight.shape[1], 64):
            block, rounded = weight[:, begin : begin + 64], other[:, begin : begin + 64]
            largest = block.abs().amax(1, keepdim=True)
            # Half a step, and at the largest values the rounding of the scale to float16.
            assert ((block - rounded).abs() <= largest / 127 * 0.5 + largest * 2**-11).all(), name


def test_rounded_weights_stay_what_they_are(model: LlamaForCausalLM, tmp_path: Path) -> None:
    first = stored(model, tmp_path)
    second = stored(first, tmp_path)
    assert all(map(torch.equal, first.parameters(), second.parameters()))


def test_zeros_stay_zeros(model: LlamaForCausalLM, tmp_path: Path) -> None:
    with torch.no_grad():
        model.model.embed_tokens.weight[3] = 0
        model.model.embed_tokens.weight[4, 5:] = 0
    again = stored(model, tmp_path)
    assert torch.equal(again.model.embed_tokens.weight[3], torch.zeros(40))
    assert torch.equal(again.model.embed_tokens.weight[4, 5:], torch.zeros(35))


def test_tied_weights_are_stored_once_and_stay_tied(model: LlamaForCausalLM, tmp_path: Path) -> None:
    again = stored(model, tmp_path)
    names = load_file(tmp_path / INT8_FILE).keys()
    is_tied = model.config.tie_word_embeddings
    assert ("lm_head.weight" in names) == (not is_tied)
    assert (again.lm_head.weight is again.model.embed_tokens.weight) == is_tied
    assert {"model.embed_tokens.weight", "model.embed_tokens.weight" + SCALES, "model.norm.weight"} <= names


def test_a_byte_per_weight_and_its_share_of_a_scale(model: LlamaForCausalLM, tmp_path: Path) -> None:
    save_int8_model(model, tmp_path)
    count = sum(weight.numel() for weight in model.parameters())
    content = sum(tensor.nbytes for tensor in load_file(tmp_path / INT8_FILE).values())
    assert content < 1.1 * count  # rows of 40 are blocks that are not full


def test_options_and_the_generation_config_are_those_of_any_model(model: LlamaForCausalLM, tmp_path: Path) -> None:
    save_int8_model(model, tmp_path)
    model.generation_config.save_pretrained(tmp_path)
    loaded, _ = load_int8_model(tmp_path, empty(model), {"dtype": torch.bfloat16})
    assert loaded.dtype == torch.bfloat16
    assert loaded.generation_config is not None
    assert loaded.generation_config.eos_token_id == [1, 0]
    assert has_int8_file(tmp_path)
    assert not has_int8_file(tmp_path.parent)
