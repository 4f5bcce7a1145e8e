"""Layers with int8 weights: close to those that they were made from, and exact whatever else is in a batch."""

from collections.abc import Iterator

import pytest
import torch
from torch import nn

from convmodel.hf_model import int8_layers, joint_product
from convmodel.hf_model.int8_layers import (
    Int8Embedding,
    Int8Linear,
    NativeInt8Linear,
    OneDNNInt8Linear,
    activations,
    exact_products,
    int8_linear,
)
from convmodel.hf_model.int8_rounding import absmax, column_scales
from convmodel.hf_model.kernels import native

INSTRUCTIONS = native.instructions() if native else []


@pytest.fixture(params=[*INSTRUCTIONS, "torch"])
def make(request: pytest.FixtureRequest) -> Iterator[type[Int8Linear]]:
    """Each kind of product: compiled for every instruction set that this processor has, and torch's."""
    if request.param == "torch":
        yield OneDNNInt8Linear
        return
    native.use(request.param)
    yield NativeInt8Linear
    native.use(INSTRUCTIONS[0])


def layer_from(make: type[Int8Linear], weight: torch.Tensor, bias: torch.Tensor | None = None) -> Int8Linear:
    columns = column_scales([weight])
    return make(*absmax(weight, columns), bias, columns)


def test_the_extension_is_compiled() -> None:
    """Or these tests would test only torch's products."""
    assert INSTRUCTIONS[-1] == "plain"
    assert isinstance(int8_linear(torch.ones(3, 5), None), NativeInt8Linear)


def test_without_the_extension_products_are_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convmodel.hf_model.kernels.native", None)
    assert isinstance(int8_linear(torch.ones(3, 5), None), OneDNNInt8Linear)


@pytest.mark.parametrize("tokens", [1, 3, 4, 7, 64])
@pytest.mark.parametrize("bias", [True, False])
def test_a_product_is_close_though_one_activation_is_large(make: type[Int8Linear], tokens: int, bias: bool) -> None:
    torch.manual_seed(0)
    layer = nn.Linear(96, 41, bias=bias)
    given = torch.randn(tokens, 96)
    given[:, 3] = 60.0
    expected = layer(given)
    found = layer_from(make, layer.weight, layer.bias)(given)
    # That of the weights: half of a 127th of each row's largest, over and over.
    assert (found - expected).norm() / expected.norm() < 0.01
    with_fine = layer_from(make, torch.eye(96))(given)  # weights that are exact
    kind = activations()
    torch.testing.assert_close(with_fine, given, atol=60 / (kind.largest * kind.base), rtol=0)


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (5, 576), (41, 1537), (9, 20_000)])
@pytest.mark.parametrize("tokens", [1, 6])
def test_a_product_of_any_shape_is_that_of_the_integers(
    make: type[Int8Linear], shape: tuple[int, int], tokens: int
) -> None:
    torch.manual_seed(0)
    weight, given = torch.randn(shape), torch.randn(tokens, shape[1])
    columns = column_scales([weight])
    integers, scales = absmax(weight, columns)
    expected = given.double() @ (integers.double() * scales.double() * columns.double()).t()
    found = layer_from(make, weight)(given)
    torch.testing.assert_close(found.double(), expected, atol=1e-3 * shape[1] ** 0.5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize("rows", [1, 2, 7, 64])
@pytest.mark.parametrize("inputs", [96, 9_000])
def test_sums_of_products_do_not_overflow(make: type[Int8Linear], rows: int, inputs: int) -> None:
    """Without VNNI, torch adds up two products of 8 bits in 16 bits, which saturate; long rows have many products."""
    layer = layer_from(make, torch.full((40, inputs), 3.0))
    torch.testing.assert_close(layer(torch.full((rows, inputs), 5.0)), torch.full((rows, 40), inputs * 15.0))


def test_seven_bits_give_the_product_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are exact on every processor; eight bits are tested where they are."""
    monkeypatch.setattr(int8_layers, "activations", lambda: int8_layers._SEVEN_BITS)
    torch.manual_seed(0)
    layer, given = nn.Linear(96, 40), torch.randn(5, 96)
    packed = layer_from(OneDNNInt8Linear, layer.weight, layer.bias)
    assert (packed(given) - layer(given)).norm() / layer(given).norm() < 0.01


def test_what_else_is_in_a_batch_changes_nothing(make: type[Int8Linear]) -> None:
    torch.manual_seed(0)
    layer = layer_from(make, torch.randn(33, 50), torch.randn(33))
    given = torch.randn(9, 50) * torch.tensor([[10.0**n] for n in range(9)])
    together = layer(given)
    assert all(torch.equal(layer(row[None])[0], both) for row, both in zip(given, together, strict=True))
    assert torch.equal(layer(given.view(3, 3, 50)), together.view(3, 3, 33))


@pytest.mark.parametrize("has_units", [True, False])
def test_many_tokens_have_the_product_of_a_few(has_units: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(0)
    monkeypatch.setattr(joint_product, "has_int8_units", lambda: has_units)
    layer, given = layer_from(NativeInt8Linear, torch.randn(33, 64), torch.randn(33)), torch.randn(200, 64) * 9
    given[:, 5] *= 30
    few = torch.cat([layer(part) for part in given.split(50)])
    torch.testing.assert_close(layer(given), few, atol=1e-3 * few.abs().max().item(), rtol=0)


def test_what_is_not_finite_stays_so(make: type[Int8Linear]) -> None:
    layer, given = layer_from(make, torch.randn(8, 16)), torch.randn(3, 16)
    given[1, 4] = torch.nan
    found = layer(given)
    assert found[0].isfinite().all()
    assert not found[1].isfinite().any()
    assert torch.equal(layer(torch.zeros(2, 16)), torch.zeros(2, 8))


def test_blocks_of_exact_products_may_overlap() -> None:
    """As those of two threads do."""
    layer = int8_linear(torch.randn(4, 8), None)
    first, second = exact_products(layer), exact_products(layer)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert layer.exactness == [True]
    with exact_products(layer, enabled=False):
        assert layer.exactness == [True, False]
    second.__exit__(None, None, None)
    assert layer.exactness == []


def test_an_empty_batch_has_an_empty_product(make: type[Int8Linear]) -> None:
    assert layer_from(make, torch.randn(8, 16))(torch.randn(0, 16)).shape == (0, 8)


def test_an_embedding_looks_up_its_rows() -> None:
    torch.manual_seed(0)
    weight = torch.randn(20, 8)
    ids = torch.tensor([[3, 3], [19, 0]])
    embedding = Int8Embedding(*absmax(weight), dtype=torch.float32)
    torch.testing.assert_close(embedding(ids), weight[ids], atol=weight.abs().max().item() / 254, rtol=0)
    columns = torch.rand(8) + 0.5
    embedding = Int8Embedding(*absmax(weight, columns), columns, dtype=torch.float32)
    limit = (weight / columns).abs().max().item() / 254 * 1.5
    torch.testing.assert_close(embedding(ids), weight[ids], atol=limit, rtol=0)
