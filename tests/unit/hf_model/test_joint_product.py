"""Products of few rows and of many: those of torch, for every instruction set that this processor has."""

from collections.abc import Iterator

import pytest
import torch
from torch.nn import functional

from convmodel.hf_model import joint_product
from convmodel.hf_model.int8_rounding import absmax
from convmodel.hf_model.joint_product import FEW, FEW_WITH_INT8_AS_FLOATS, JointProduct, Weights
from convmodel.hf_model.kernels import Before, Function, native

INSTRUCTIONS = native.instructions() if native else []


@pytest.fixture(params=INSTRUCTIONS, autouse=True)
def instructions(request: pytest.FixtureRequest) -> Iterator[None]:
    native.use(request.param)
    yield
    native.use(INSTRUCTIONS[0])


def integers(outputs: int, inputs: int, columns: torch.Tensor | None = None) -> Weights:
    rows, scales = absmax(torch.randn(outputs, inputs), columns)
    return Weights(rows, scales.flatten(), torch.randn(outputs) if outputs % 2 else None, columns)


def floats(outputs: int, inputs: int) -> Weights:
    return Weights(torch.randn(outputs, inputs), None, torch.randn(outputs) if outputs % 2 else None)


@pytest.mark.parametrize("shape", [(1, 1), (2, 3), (33, 50), (41, 1537)])
@pytest.mark.parametrize("rows", [0, 1, 2, 3, 4, 7, 40])
def test_a_product_with_floats_is_torchs(shape: tuple[int, int], rows: int) -> None:
    torch.manual_seed(0)
    weights, given = floats(*shape), torch.randn(rows, shape[1])
    expected = functional.linear(given, weights.rows, weights.bias)
    torch.testing.assert_close(JointProduct([weights])(given), expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("make", [integers, floats])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_a_joint_product_is_that_of_each_layer(make: type[Weights], threads: int) -> None:
    torch.manual_seed(0)
    weights = [make(outputs, 50) for outputs in (33, 2, 16, 1)]
    given, before = torch.randn(7, 50), torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found = JointProduct(weights)(given)
        assert torch.equal(found, torch.cat([JointProduct([each])(given) for each in weights], dim=1))
    finally:
        torch.set_num_threads(before)


BEFORE = {
    Function.RMS_NORM: lambda x, w, b: functional.rms_norm(x, w.shape, w, 1e-5),
    Function.LAYER_NORM: lambda x, w, b: functional.layer_norm(x, w.shape, w, b, 1e-5),
    Function.SILU: lambda x, w, b: functional.silu(x),
    Function.GELU: lambda x, w, b: functional.gelu(x, approximate="tanh"),
    Function.GATED_SILU: lambda x, w, b: functional.silu(x.chunk(2, 1)[0]) * x.chunk(2, 1)[1],
    Function.GATED_GELU: lambda x, w, b: functional.gelu(x.chunk(2, 1)[0], approximate="tanh") * x.chunk(2, 1)[1],
}


@pytest.mark.parametrize("make", [integers, floats])
@pytest.mark.parametrize("function", BEFORE)
def test_norms_and_activation_functions_are_applied_before(make: type[Weights], function: Function) -> None:
    torch.manual_seed(0)
    weights, weight, bias = [make(8, 64), make(24, 64)], torch.randn(64), torch.randn(64)
    given, residual = torch.randn(5, 128 if "GATED" in function.name else 64) * 8, torch.randn(5, 32)
    given[0, :3] = torch.tensor([0.0, 90.0, -90.0])
    expected = JointProduct(weights)(BEFORE[function](given, weight, bias)) + residual
    found = JointProduct(weights, Before(function, weight, bias, 1e-5))(given, residual)
    largest = expected.abs().max().item()
    torch.testing.assert_close(found, expected, atol=largest * (1e-5 if make is floats else 1e-3), rtol=1e-5)


MANY = FEW_WITH_INT8_AS_FLOATS + 9


@pytest.fixture(params=[True, False])
def has_units(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the processor multiplies integers, which all do rightly; and parts of matrices are small."""
    monkeypatch.setattr(joint_product, "has_int8_units", lambda: request.param)
    monkeypatch.setattr(joint_product, "_LARGEST_PART", 4000)
    return bool(request.param)


@pytest.mark.parametrize("make", [integers, floats])
@pytest.mark.parametrize("function", Function)
@pytest.mark.parametrize("threads", [1, 3])
def test_many_rows_have_the_products_of_a_few(
    make: type[Weights], function: Function, threads: int, has_units: bool
) -> None:
    torch.manual_seed(0)
    weights, weight, bias = [make(8, 64), make(33, 64), make(24, 64)], torch.randn(64), torch.randn(64)
    product = JointProduct(weights, Before(function, weight, bias, 1e-5))
    given, residual = torch.randn(MANY, 128 if "GATED" in function.name else 64) * 3, torch.randn(MANY, 65)
    given[:, 5] *= 30
    given[7] = 0
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        found, bare = product(given, residual), product(given)
    finally:
        torch.set_num_threads(before)
    few = torch.cat([product(*part) for part in zip(given.split(FEW), residual.split(FEW), strict=True)])
    if make is integers and has_units:
        assert torch.equal(found, few)
    largest = few.abs().amax(1, keepdim=True)
    assert ((found - few).abs() < largest * (1e-5 if make is floats else 3e-4)).all()
    torch.testing.assert_close(bare + residual, found, atol=1e-6 * largest.max().item(), rtol=1e-5)


def test_what_else_is_among_many_rows_changes_nothing(has_units: bool) -> None:
    torch.manual_seed(0)
    product, given = JointProduct([integers(33, 50)]), torch.randn(2 * MANY, 50)
    given[MANY:] *= 1e6
    found = product(given)
    tolerance = {"atol": 0.0, "rtol": 0.0} if has_units else {"atol": 1e-4, "rtol": 1e-5}
    torch.testing.assert_close(found[:MANY], product(given[:MANY]), **tolerance)


def test_what_is_not_finite_stays_so_among_many_rows(has_units: bool) -> None:
    given = torch.randn(MANY, 64)
    given[1, 3], given[2, 3] = torch.nan, torch.inf
    found = JointProduct([integers(8, 64)])(given)
    assert not found[1:3].isfinite().any()
    assert found[[0, *range(3, MANY)]].isfinite().all()


@pytest.mark.parametrize("function", [Function.NOTHING, Function.RMS_NORM, Function.GATED_SILU])
@pytest.mark.parametrize("rows", [1, MANY])
def test_activations_are_multiplied_by_the_scales_of_columns(rows: int, function: Function, has_units: bool) -> None:
    torch.manual_seed(0)
    columns, weight = torch.rand(64) + 0.1, torch.randn(64)
    weights = [integers(8, 64, columns), integers(33, 64, columns)]
    given = torch.randn(rows, 128 if function is Function.GATED_SILU else 64)
    prepared = BEFORE[function](given, weight, None) if function else given
    expected = [functional.linear(prepared * columns, (w.rows * w.scales[:, None]), w.bias) for w in weights]
    found = JointProduct(weights, Before(function, weight, None, 1e-5))(given)
    largest = found.abs().max().item()
    torch.testing.assert_close(found, torch.cat(expected, 1), atol=3e-4 * largest, rtol=0)


@pytest.mark.parametrize("rows", [3, MANY])
def test_weights_of_a_model_in_training_are_multiplied_too(rows: int) -> None:
    weight, given = torch.nn.Parameter(torch.randn(5, 8)), torch.randn(rows, 8)
    found = JointProduct([Weights(weight, None, None)])(given)
    torch.testing.assert_close(found, given @ weight.detach().t(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("modes", [(True, False), (False, True)])
def test_products_in_one_mode_may_follow_those_in_another(modes: tuple[bool, bool], has_units: bool) -> None:
    """The memory for sums is kept between them."""
    joint_product._kept.__dict__.clear()
    product, given = JointProduct([integers(8, 64)]), torch.randn(MANY, 64)
    results = []
    for mode in modes:
        with torch.inference_mode(mode):
            results.append(product(given).clone())
    assert torch.equal(*results)


def test_layers_that_round_differently_are_not_joined() -> None:
    one, other = integers(8, 64, torch.ones(64)), integers(8, 64, torch.ones(64))
    for weights in ([one, other], [one, integers(8, 64)], [floats(8, 64), integers(8, 64)]):
        with pytest.raises(ValueError, match="round their activations"):
            JointProduct(weights)


def test_activations_of_another_kind_are_refused() -> None:
    product = JointProduct([floats(3, 4)])
    for given in (torch.randn(2, 5), torch.randn(2, 4).double()):
        with pytest.raises(ValueError, match="not float32 of 4"):
            product(given)
