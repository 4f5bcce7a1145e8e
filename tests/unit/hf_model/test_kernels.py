"""Compiled products: those of torch, for every instruction set that this processor has."""

from collections.abc import Iterator

import pytest
import torch
from torch.nn import functional

from convmodel.hf_model.int8_layers import absmax
from convmodel.hf_model.kernels import (
    Before,
    Function,
    HeadNorms,
    JointProduct,
    StepAttention,
    Weights,
    can_multiply,
    log_sums,
    native,
)

INSTRUCTIONS = native.instructions() if native else []


@pytest.fixture(params=INSTRUCTIONS, autouse=True)
def instructions(request: pytest.FixtureRequest) -> Iterator[None]:
    native.use(request.param)
    yield
    native.use(INSTRUCTIONS[0])


def integers(outputs: int, inputs: int) -> Weights:
    rows, scales = absmax(torch.randn(outputs, inputs))
    return Weights(rows, scales.flatten(), torch.randn(outputs) if outputs % 2 else None)


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


@pytest.mark.parametrize("settings", ["plain", "norms", "cap", "partly rotated", "not rotated"])
@pytest.mark.parametrize("threads", [1, 2, 5])
def test_attention_of_a_step_is_torchs(settings: str, threads: int) -> None:
    torch.manual_seed(0)
    rows, heads, shared, size, room, position = 3, 6, 2, 16, 24, 17
    rotated = {"partly rotated": 8, "not rotated": 0}.get(settings, size)
    cap, scale = 2.0 if settings == "cap" else None, 0.3
    norms = HeadNorms(torch.randn(size), torch.randn(size), 1e-6) if settings == "norms" else None
    states, angles = torch.randn(rows, (heads + 2 * shared) * size), torch.rand(rows, rotated // 2)
    cos, sin = torch.cat([angles.cos()] * 2, 1), torch.cat([angles.sin()] * 2, 1)
    signed = sin * torch.cat([-torch.ones(rotated // 2), torch.ones(rotated // 2)])
    keys, values = torch.randn(2, rows, shared, room, size)
    firsts = torch.tensor([0, 5, position])

    query, key, value = states.view(rows, -1, size).split([heads, shared, shared], dim=1)
    if norms:
        query, key = (functional.rms_norm(x, (size,), w, 1e-6) for x, w in ((query, norms.query), (key, norms.key)))

    def rotate(x: torch.Tensor) -> torch.Tensor:
        part, rest = x[..., :rotated], x[..., rotated:]
        first, second = part.chunk(2, dim=-1)
        turned = torch.cat((-second, first), dim=-1)
        return torch.cat((part * cos[:, None] + turned * sin[:, None], rest), dim=-1)

    expected_keys, expected_values = keys.clone(), values.clone()
    expected_keys[:, :, position], expected_values[:, :, position] = rotate(key), value
    scores = rotate(query)[:, :, None] @ expected_keys[:, :, : position + 1].repeat_interleave(3, 1).mT * scale
    scores = cap * torch.tanh(scores / cap) if cap else scores
    hidden = torch.arange(position + 1) < firsts[:, None]
    weights = scores.masked_fill(hidden[:, None, None], -torch.inf).softmax(-1)
    expected = weights @ expected_values[:, :, : position + 1].repeat_interleave(3, 1)

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        attention = StepAttention((heads, shared, size, rotated), scale, norms=norms, cap=cap)
        found = attention(states, (cos, signed) if rotated else None, (keys, values), firsts, position)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(found, expected.reshape(rows, -1), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(keys, expected_keys, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(values, expected_values, atol=0, rtol=0)


def test_activations_of_another_kind_are_refused() -> None:
    product = JointProduct([floats(3, 4)])
    for given in (torch.randn(2, 5), torch.randn(2, 4).double()):
        with pytest.raises(ValueError, match="not float32 of 4"):
            product(given)


def test_which_matrices_can_be_multiplied() -> None:
    weight = torch.randn(3, 4)
    assert can_multiply(weight)
    assert not any(map(can_multiply, [weight.t(), weight.bfloat16(), weight.to("meta"), weight[:, :2]]))


def test_an_unknown_instruction_set_is_refused() -> None:
    with pytest.raises(ValueError, match="no such instruction set"):
        native.use("sse9")


@pytest.mark.parametrize("shape", [(1, 1), (3, 7), (2, 5001)])
def test_log_sums_and_largest_values_are_torchs(shape: tuple[int, int]) -> None:
    torch.manual_seed(0)
    logits = torch.randn(shape) * 20
    logits[0, 0] = -50.0
    sums, places = log_sums(logits)
    torch.testing.assert_close(sums, logits.logsumexp(-1), atol=1e-5, rtol=1e-6)
    assert torch.equal(places, logits.argmax(-1))


def test_logits_of_another_kind_are_summed_by_torch() -> None:
    logits = torch.randn(5, 9).t()
    sums, places = log_sums(logits)
    assert torch.equal(sums, logits.logsumexp(-1))
    assert torch.equal(places, logits.argmax(-1))
