"""Products with the values of int8 weights: those of a linear layer, in both passes, without keeping the values."""

from dataclasses import dataclass, replace

import pytest
import torch

from convmodel.hf_model import int8_matrix
from convmodel.hf_model.int8_matrix import Int8Matrix, joined_values, multiply
from convmodel.hf_model.int8_rounding import absmax


@dataclass
class Layer:
    matrix: Int8Matrix


def layer(outputs: int, inputs: int = 12) -> Layer:
    columns = torch.rand(inputs) + 0.5
    return Layer(Int8Matrix(*absmax(torch.randn(outputs, inputs), columns), columns))


@pytest.fixture(autouse=True)
def _small_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(int8_matrix, "_AT_ONCE", 40)  # three rows of 12


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_values_are_the_integers_times_the_scales(dtype: torch.dtype) -> None:
    matrix = layer(7).matrix
    assert matrix.columns is not None
    expected = (matrix.rows.double() * matrix.scales.double() * matrix.columns.double()).float()
    torch.testing.assert_close(matrix.values(torch.float32), expected, rtol=2e-7, atol=0.0)
    assert torch.equal(matrix.values(dtype), matrix.values(torch.float32).to(dtype))
    plain = replace(matrix, columns=None)
    assert torch.equal(plain.values(dtype), (matrix.rows.float() * matrix.scales).to(dtype))


def test_rows_can_be_replaced() -> None:
    matrix = layer(7).matrix
    row = torch.arange(12.0)[None]
    values = replace(matrix, replaced=([5], row)).values(torch.float32)
    assert torch.equal(values[5], row[0])
    others = [0, 1, 2, 3, 4, 6]
    assert torch.equal(values[others], matrix.values(torch.float32)[others])


@pytest.mark.parametrize("count", [1, 3, 7])
def test_the_mean_is_that_of_the_first_rows(count: int) -> None:
    matrix = layer(7).matrix
    torch.testing.assert_close(matrix.mean(count), matrix.values(torch.float32)[:count].mean(0))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sizes", [[7], [7, 2, 5]])
def test_both_passes_are_those_of_a_float_matrix(sizes: list[int], dtype: torch.dtype) -> None:
    layers = [layer(size) for size in sizes]
    weight = torch.cat([each.matrix.values(dtype) for each in layers])
    assert torch.equal(joined_values(layers, dtype), weight)
    states, gradient = torch.randn(9, 12).to(dtype), torch.randn(9, sum(sizes)).to(dtype)
    results = []
    for compute in (lambda given: multiply(given, layers), lambda given: given @ weight.t()):
        given = states.clone().requires_grad_()
        result = compute(given)
        result.backward(gradient)
        results.append((result.detach(), given.grad))
    torch.testing.assert_close(*results, rtol=0.0, atol=0.0)


def test_nothing_is_kept_for_the_backward_pass() -> None:
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        multiply(torch.randn(3, 12, requires_grad=True), [layer(7)])
    assert not kept
