"""Compiled kernels of training: values and gradients are torch's, for every instruction set that this processor has."""

from collections.abc import Callable, Iterator

import pytest
import torch
from torch.nn import functional

from convmodel.hf_model.training_kernels import Activation, Heads, Rotation, Windows, attend, glu, native, rms_norm

INSTRUCTIONS = native.instructions() if native else []

Compute = Callable[..., torch.Tensor]


@pytest.fixture(params=INSTRUCTIONS, autouse=True)
def instructions(request: pytest.FixtureRequest) -> Iterator[None]:
    native.use(request.param)
    yield
    native.use(INSTRUCTIONS[0])


def require_same(found: Compute, expected: Compute, *inputs: torch.Tensor) -> None:
    """Compares results and gradients, with those of the same computed in float64."""
    ours = [each.clone().requires_grad_() for each in inputs]
    theirs = [each.double().requires_grad_() for each in inputs]
    result, right = found(*ours), expected(*theirs)
    gradient = torch.randn(result.shape).to(result.dtype)
    result.backward(gradient)
    right.backward(gradient.double())
    tolerance = 2e-5 if result.dtype == torch.float32 else 2e-2
    torch.testing.assert_close(result.double(), right, atol=tolerance, rtol=tolerance)
    for one, other in zip(ours, theirs, strict=True):
        assert one.grad is not None
        assert other.grad is not None
        largest = float(other.grad.abs().max())
        torch.testing.assert_close(
            one.grad.double(), other.grad, atol=2 * tolerance * largest + 1e-6, rtol=2 * tolerance
        )


def attend_by_definition(
    joined: torch.Tensor, rotation: Rotation | None, heads: Heads, windows: Windows
) -> torch.Tensor:
    sizes = [heads.count * heads.size, heads.kv_count * heads.size, heads.kv_count * heads.size]
    query, key, value = (part.unflatten(1, (-1, heads.size)).transpose(0, 1) for part in joined.split(sizes, dim=1))
    if rotation is not None:
        query, key = rotated(query, *rotation), rotated(key, *rotation)
    groups = heads.count // heads.kv_count
    scores = heads.scale * query @ key.repeat_interleave(groups, 0).transpose(1, 2)
    places = torch.arange(len(joined))
    window = torch.repeat_interleave(torch.arange(len(windows.bounds)), windows.bounds[:, 1])
    back = places[:, None] - places
    is_seen = (window[:, None] == window) & (back >= 0) & (back < (heads.sliding_window or len(joined)))
    attended = scores.masked_fill(~is_seen, -torch.inf).softmax(-1) @ value.repeat_interleave(groups, 0)
    return attended.transpose(0, 1).flatten(1)


def rotated(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    turned, rest = states[..., : cos.shape[1]], states[..., cos.shape[1] :]
    first, second = turned.chunk(2, dim=-1)
    return torch.cat([turned * cos + torch.cat([-second, first], dim=-1) * sin, rest], dim=-1)


SHAPES = {
    "as SmolLM2": Heads(9, 3, 64, 0.125),
    "of size 2": Heads(2, 2, 2, 0.7),
    "of size 80": Heads(2, 1, 80, 0.1),
    "sliding": Heads(4, 2, 16, 0.25, sliding_window=5),
    "sliding by one": Heads(2, 2, 16, 0.25, sliding_window=1),
    "sliding beyond a block": Heads(1, 1, 40, 0.2, sliding_window=37),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lengths", [[1], [3, 1, 1], [33, 70, 4], [32, 64], [130]])
@pytest.mark.parametrize("shape", SHAPES)
def test_attention_is_that_of_the_formula(shape: str, lengths: list[int], dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    heads, windows, tokens = SHAPES[shape], Windows(lengths), sum(lengths)
    joined = torch.randn(tokens, (heads.count + 2 * heads.kv_count) * heads.size).to(dtype)
    for rotated_size in (0, heads.size, heads.size // 4 * 2):
        angles = torch.randn(tokens, rotated_size // 2).repeat(1, 2)
        rotation = (1.3 * angles.cos(), 1.3 * angles.sin()) if rotated_size else None
        require_same(
            lambda joined, turn=rotation: attend(joined, turn, heads, windows),
            lambda joined, turn=rotation: attend_by_definition(joined, turn, heads, windows),
            joined,
        )


@pytest.mark.parametrize("threads", [1, 2, 5])
def test_results_depend_neither_on_threads_nor_on_other_windows(threads: int) -> None:
    torch.manual_seed(0)
    heads, lengths, before = Heads(4, 2, 16, 0.25), [40, 3, 70, 12], torch.get_num_threads()
    joined, gradient = torch.randn(sum(lengths), 8 * 16), torch.randn(sum(lengths), 4 * 16)

    def both(joined: torch.Tensor, lengths: list[int], gradient: torch.Tensor) -> tuple[torch.Tensor, ...]:
        given = joined.clone().requires_grad_()
        result = attend(given, None, heads, Windows(lengths))
        result.backward(gradient)
        assert given.grad is not None
        return result.detach(), given.grad

    torch.set_num_threads(threads)
    try:
        together = both(joined, lengths, gradient)
        alone = [
            both(*each)
            for each in zip(joined.split(lengths), [[n] for n in lengths], gradient.split(lengths), strict=True)
        ]
        for found, parts in zip(together, zip(*alone, strict=True), strict=True):
            assert torch.equal(found, torch.cat(parts))
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("rows", "width"), [(1, 1), (16, 33), (37, 576)])
def test_a_norm_is_torchs(rows: int, width: int, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    require_same(
        lambda states, weights: rms_norm(states, weights, 1e-5, dtype),
        lambda states, weights: functional.rms_norm(states, (width,), weights, 1e-5),
        3 * torch.randn(rows, width),
        torch.randn(width),
    )


def test_a_norms_gradient_by_weights_does_not_depend_on_threads() -> None:
    torch.manual_seed(0)
    states, found, before = torch.randn(333, 50), [], torch.get_num_threads()
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            weights = torch.ones(50, requires_grad=True)
            rms_norm(states, weights, 1e-5, torch.float32).square().sum().backward()
            found.append(weights.grad)
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("gate", Activation)
def test_a_gated_activation_is_torchs(gate: Activation, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    functions = {Activation.SILU: functional.silu, Activation.GELU: lambda x: functional.gelu(x, approximate="tanh")}
    given = 4 * torch.randn(37, 2 * 50)
    given[0, :6] = torch.tensor([0.0, -0.0, 30.0, -30.0, 100.0, -100.0])
    require_same(
        lambda joined: glu(joined, gate),
        lambda joined: functions[gate](joined[:, :50]) * joined[:, 50:],
        given.to(dtype),
    )


def test_nothing_that_is_not_finite_is_lost() -> None:
    for value in (torch.nan, torch.inf):
        joined = torch.full((3, 3), value).bfloat16()
        assert not attend(joined, None, Heads(1, 1, 1, 1.0), Windows([3])).isfinite().any()
        assert not rms_norm(joined.float(), torch.ones(3), 1e-5, torch.bfloat16).isfinite().any()
        assert not glu(joined.repeat(1, 2), Activation.SILU).isfinite().any()


@pytest.mark.parametrize("dtype", [torch.float16, torch.float64])
def test_other_precisions_are_refused(dtype: torch.dtype) -> None:
    with pytest.raises(ValueError, match=r"activations are .*, not float32 or bfloat16"):
        glu(torch.zeros(2, 2, dtype=dtype), Activation.SILU)


def test_windows_of_other_tokens_are_refused() -> None:
    with pytest.raises(ValueError, match="there are 4 tokens, but windows of 3"):
        attend(torch.zeros(4, 3), None, Heads(1, 1, 1, 1.0), Windows([1, 2]))


def test_windows_are_found_in_packed_and_in_padded_rows() -> None:
    packed = torch.tensor([[0, 1, 2, 0, 1, 0, 0], [0, 1, 2, 3, 4, 5, 6]])
    assert Windows.of(packed).bounds.tolist() == [[0, 3], [3, 2], [5, 1], [6, 1], [7, 7]]
    follows = torch.tensor([[0, 1], [2, 3]])  # a row begins a window whatever it begins with
    assert Windows.of(follows).bounds.tolist() == [[0, 2], [2, 2]]
    assert Windows.of(packed).longest == 7
