"""Adapters over packed weights are those over float ones: the same layers, names, first values and config."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers.pytorch_utils import Conv1D

from convmodel import ConversationModel
from convmodel.errors import ConfigError
from convmodel.hf_model.embedding import new_row_sources
from convmodel.hf_model.int8_adapters import are_tied, float_stand_ins, is_new_row
from convmodel.hf_model.int8_layers import Int8Embedding, Int8Linear
from convmodel.hf_model.int8_rounding import absmax, column_scales
from convmodel.hf_model.lora import add_adapters, has_adapters, remove_adapters
from convmodel.hf_model.quantization import is_quantized

Load = Callable[..., ConversationModel]

FAMILIES = ["unigram", "bytelevel", "smollm2"]
"""A GPT-2; a Llama; and one more, whose separator has a new row."""


@pytest.fixture
def load(zoo_folders: dict[str, Path]) -> Load:
    return lambda family, **options: ConversationModel.from_pretrained(zoo_folders[family], device="cpu", **options)


def trained(model: ConversationModel) -> dict[str, torch.Tensor]:
    return {name: value for name, value in model.hf_model.named_parameters() if value.requires_grad}


@pytest.mark.parametrize("family", FAMILIES)
def test_they_are_those_of_the_float_model(load: Load, family: str) -> None:
    packed, plain = load(family, quantize="int8"), load(family)

    counts = {add_adapters(model.hf_model, model.tokenizer, {}, seed=3) for model in (packed, plain)}

    assert len(counts) == 1
    ours, theirs = trained(packed), trained(plain)
    assert list(ours) == list(theirs)
    assert all(torch.equal(value, theirs[name]) for name, value in ours.items() if "lora_" in name)
    configs: list[Any] = [model.hf_model.peft_config["default"].to_dict() for model in (packed, plain)]
    assert configs[0] == configs[1]
    assert not any(isinstance(module, Conv1D) for module in packed.hf_model.modules())


@pytest.mark.parametrize("family", FAMILIES)
def test_off_again_they_leave_the_packed_layers(load: Load, family: str) -> None:
    model = load(family, quantize="int8")
    before = dict(model.hf_model.named_modules())
    add_adapters(model.hf_model, model.tokenizer, {})

    with pytest.raises(ConfigError, match="a quantized model cannot be merged with adapters: load it without quantize"):
        remove_adapters(model.hf_model, merge=True)
    assert has_adapters(model.hf_model)
    remove_adapters(model.hf_model, merge=False)

    assert not has_adapters(model.hf_model)
    after = dict(model.hf_model.named_modules())
    assert after.keys() == before.keys()
    assert all(module is before[name] for name, module in after.items())


@pytest.mark.parametrize(
    ("family", "options", "message"),
    [
        ("smollm2", {"target_modules": ["nothing_like_it"]}, "lora does not fit this model"),
        ("smollm2", {"use_dora": True}, "lora's use_dora needs float weights: leave out use_dora or quantize"),
        ("unigram", {"target_modules": ["wte"]}, "wte is an embedding in int8: leave it out of target_modules"),
    ],
)
def test_options_that_do_not_fit_leave_the_packed_layers(
    load: Load, family: str, options: dict[str, Any], message: str
) -> None:
    model = load(family, quantize="int8")
    before = dict(model.hf_model.named_modules())

    with pytest.raises(ConfigError, match=message):
        add_adapters(model.hf_model, model.tokenizer, options)

    assert not has_adapters(model.hf_model)
    assert all(module is before[name] for name, module in model.hf_model.named_modules())
    assert not trained(model)


@pytest.mark.parametrize("family", FAMILIES)
def test_stand_ins_have_the_classes_and_shapes_and_no_values(load: Load, family: str) -> None:
    packed, plain = load(family, quantize="int8").hf_model, load(family).hf_model
    before = dict(packed.named_modules())

    names = [name for name, module in before.items() if isinstance(module, Int8Linear | Int8Embedding)]
    with float_stand_ins(packed):
        assert not is_quantized(packed)
        modules = [[hf_model.get_submodule(name) for name in names] for hf_model in (packed, plain)]
        shapes = [[(type(module), module.weight.shape) for module in part] for part in modules]
        largest = max(module.weight.untyped_storage().nbytes() for module in modules[0])
        tied = packed.get_output_embeddings().weight is packed.get_input_embeddings().weight

    assert shapes[0] == shapes[1]
    assert largest == 4
    assert tied == (plain.get_output_embeddings().weight is plain.get_input_embeddings().weight)
    assert all(module is before[name] for name, module in packed.named_modules())


def test_tied_layers_are_known_packed_or_not(load: Load) -> None:
    for family, tied in (("unigram", True), ("bytelevel", False)):
        for quantize in (None, "int8"):
            hf_model = load(family, quantize=quantize).hf_model
            assert are_tied(hf_model.get_input_embeddings(), hf_model.get_output_embeddings()) == tied


@pytest.mark.parametrize("rows", [8, 20_000])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("source", "padding"), [(3, 0), (None, 0), (None, 4)])
def test_a_row_is_new_while_it_has_its_first_values(
    source: int | None, padding: int, dtype: torch.dtype, rows: int
) -> None:
    torch.manual_seed(0)
    embedding = nn.Embedding(rows + 1 + padding, 16).to(dtype)
    sources = new_row_sources(len(embedding.weight), rows, source)
    with torch.no_grad():
        embedding.weight.add_(torch.linspace(-2, 2, 16).to(dtype))  # so that the mean is not near 0
        embedding.weight[rows] = embedding.weight[list(sources)].mean(0)
        found = [
            (is_new_row(embedding, row, sources), is_new_row(packed(embedding), row, sources)) for row in (rows, 5)
        ]
        embedding.weight[rows] += 0.25
    assert found == [(True, True), (False, False)]
    assert not is_new_row(embedding, rows, sources)
    assert not is_new_row(packed(embedding), rows, sources)


def packed(embedding: nn.Embedding) -> Int8Embedding:
    columns = column_scales([embedding.weight])
    return Int8Embedding(*absmax(embedding.weight, columns), columns, dtype=embedding.weight.dtype)


def test_a_head_without_the_extension_is_tied_too(load: Load, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convmodel.hf_model.kernels.native", None)
    hf_model = load("unigram", quantize="int8").hf_model
    head = hf_model.get_output_embeddings()
    assert isinstance(head, Int8Linear)
    assert are_tied(hf_model.get_input_embeddings(), head)
