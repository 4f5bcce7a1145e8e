"""Weights under llama.cpp's names, in its order and types."""

from dataclasses import replace

import gguf
import pytest
import torch
from export_models import MODELS, make_model
from gguf import GGMLQuantizationType, quants

from convmodel.errors import ConfigError
from convmodel.export.gguf_architecture import shape_of
from convmodel.export.gguf_tensors import Tensor, encoded, stored_type, tensors_of
from convmodel.export.options import TYPES


@pytest.mark.parametrize("name", MODELS)
def test_names_are_those_of_the_architecture(name: str) -> None:
    shape = shape_of(make_model(name).hf_model)
    [architecture] = [key for key, value in gguf.MODEL_ARCH_NAMES.items() if value == shape.architecture.name]
    patterns = [gguf.TENSOR_NAMES[kind] for kind in gguf.MODEL_TENSORS[architecture]]
    known = {pattern.format(bid=number) for pattern in patterns for number in range(len(shape.decoder.layers))}
    tensors = tensors_of(shape)
    names = [tensor.name for tensor in tensors]
    assert {name.removesuffix(".weight").removesuffix(".bias") for name in names} <= known
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", MODELS)
def test_every_parameter_goes(name: str) -> None:
    hf_model = make_model(name).hf_model
    written = sum(tensor.read().numel() for tensor in tensors_of(shape_of(hf_model)) if "rope" not in tensor.name)
    assert written == sum(parameter.numel() for parameter in hf_model.parameters())


def test_a_head_with_a_bias_is_refused() -> None:
    hf_model = make_model("llama").hf_model
    hf_model.lm_head.bias = torch.nn.Parameter(torch.zeros(hf_model.config.vocab_size))
    with pytest.raises(ConfigError, match="its head has a bias"):
        tensors_of(shape_of(hf_model))


def test_small_types_keep_tables_in_8_bits_and_odd_matrices_in_16() -> None:
    matrix, table, norm = (
        Tensor("x", (9, 64), lambda: torch.ones(9, 64), **flags)
        for flags in ({"is_matrix": True}, {"is_matrix": True, "is_table": True}, {})
    )
    odd = [replace(tensor, shape=(9, 48)) for tensor in (matrix, table, norm)]
    assert [stored_type(tensor, "q4_0") for tensor in (matrix, table, norm)] == ["q4_0", "q8_0", "f32"]
    assert [stored_type(tensor, "q4_0") for tensor in odd] == ["f16", "f16", "f32"]
    assert [stored_type(tensor, "bf16") for tensor in odd] == ["bf16", "bf16", "f32"]


@pytest.mark.parametrize("kind", TYPES)
def test_values_are_read_back_as_closely_as_the_type_is(kind: str) -> None:
    values = torch.randn(70_000, 64, generator=torch.Generator().manual_seed(0))  # more than are converted at a time
    stored = GGMLQuantizationType[kind.upper()]
    read = torch.from_numpy(quants.dequantize(encoded(values, stored, "x"), stored).copy())
    error = (read - values).pow(2).mean().sqrt().item()
    limits = {
        "f32": 0.0,
        "f16": 3e-4,
        "bf16": 3e-3,
        "q8_0": 0.01,
        "q5_1": 0.05,
        "q5_0": 0.06,
        "q4_1": 0.1,
        "q4_0": 0.12,
    }
    assert error <= limits[kind]


def test_values_too_large_for_float16_are_an_error() -> None:
    with pytest.raises(ConfigError, match=r"output\.weight has values that float16 cannot hold: export as bf16 or f32"):
        encoded(torch.full((2, 2), 70_000.0), GGMLQuantizationType.F16, "output.weight")
