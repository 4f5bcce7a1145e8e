"""Attention to cached keys and values: torch's, for every instruction set that this processor has."""

from collections.abc import Iterator

import pytest
import torch
from torch.nn import functional

from convmodel.hf_model import training_kernels
from convmodel.hf_model.cached_attention import CachedAttention, HeadNorms
from convmodel.hf_model.kernels import native
from convmodel.hf_model.training_kernels import Heads

INSTRUCTIONS = native.instructions() if native else []
ROWS, ROOM, POSITION = 4, 90, 17


@pytest.fixture(params=INSTRUCTIONS, autouse=True)
def instructions(request: pytest.FixtureRequest) -> Iterator[None]:
    for kernels in (native, training_kernels.native):
        kernels.use(request.param)
    yield
    for kernels in (native, training_kernels.native):
        kernels.use(INSTRUCTIONS[0])


@pytest.mark.parametrize("settings", ["plain", "norms", "cap", 9, 32, 33, "partly rotated", "not rotated"])
@pytest.mark.parametrize("size", [16, 64, 80])
@pytest.mark.parametrize("new", [1, 2, 70])
@pytest.mark.parametrize("threads", [1, 5])
def test_attention_is_torchs(settings: str | int, size: int, new: int, threads: int) -> None:
    """With settings that are a number, this is the length of a sliding window."""
    torch.manual_seed(0)
    window = settings if isinstance(settings, int) else None
    heads = Heads(6, 2, size, 1.2 / size**0.5, sliding_window=window, cap=2.0 if settings == "cap" else None)
    rotated = {"partly rotated": size // 2, "not rotated": 0}.get(str(settings), size)
    norms = HeadNorms(torch.randn(size), torch.randn(size), 1e-6) if settings == "norms" else None
    states, angles = torch.randn(ROWS * new, 10 * size), torch.rand(ROWS * new, rotated // 2)
    cos, sin = torch.cat([angles.cos()] * 2, 1), torch.cat([angles.sin()] * 2, 1)
    signed = sin * torch.cat([-torch.ones(rotated // 2), torch.ones(rotated // 2)])
    keys, values = torch.randn(2, ROWS, 2, ROOM, size)
    # Where the rows begin: all before the new tokens, one with the first of them, one with the last.
    starts = torch.tensor([0, 5, POSITION, POSITION + new - 1])
    for buffer in (keys, values):
        buffer[:, :, POSITION:] = torch.nan  # what is not in use may have any value
    end, least = POSITION + new, POSITION + 1 - (heads.sliding_window or POSITION + 1)

    query, key, value = states.clone().view(ROWS, new, -1, size).split([6, 2, 2], dim=2)
    if norms:
        query, key = (functional.rms_norm(x, (size,), w, 1e-6) for x, w in ((query, norms.query), (key, norms.key)))

    def rotate(x: torch.Tensor) -> torch.Tensor:
        part, rest = x[..., :rotated], x[..., rotated:]
        first, second = part.chunk(2, dim=-1)
        turned = torch.cat((-second, first), dim=-1)
        return torch.cat((part * cos.view(ROWS, new, 1, -1) + turned * sin.view(ROWS, new, 1, -1), rest), dim=-1)

    expected_keys, expected_values = keys.clone(), values.clone()
    expected_keys[:, :, POSITION:end], expected_values[:, :, POSITION:end] = (
        x.transpose(1, 2) for x in (rotate(key), value)
    )
    all_keys, all_values = (x[:, :, :end].repeat_interleave(3, 1) for x in (expected_keys, expected_values))
    scores = rotate(query).transpose(1, 2) @ all_keys.mT * heads.scale
    scores = 2.0 * torch.tanh(scores / 2.0) if heads.cap else scores
    own, positions = torch.arange(POSITION, end)[:, None], torch.arange(end)
    is_seen = (positions <= own) & (positions > own - (heads.sliding_window or end))
    is_seen = is_seen & (positions >= starts[:, None, None])
    weights = scores.masked_fill(~is_seen[:, None], -torch.inf).softmax(-1).nan_to_num(0.0)
    expected = (weights @ all_values).transpose(1, 2).reshape(ROWS * new, -1)

    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        attention = CachedAttention(heads, rotated, norms)
        firsts = starts.clamp_min(least)
        found = attention(states, (cos, signed) if rotated else None, (keys, values), firsts, POSITION)
    finally:
        torch.set_num_threads(before)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(keys, expected_keys, atol=1e-5, rtol=1e-5, equal_nan=True)
    torch.testing.assert_close(values, expected_values, atol=0, rtol=0, equal_nan=True)


@pytest.mark.parametrize("new", [1, 3])
def test_a_row_of_padding_alone_attends_to_nothing(new: int) -> None:
    torch.manual_seed(0)
    attention = CachedAttention(Heads(2, 1, 16, 0.3), 0)
    keys, values = torch.randn(2, 2, 1, 8, 16)
    found = attention(torch.randn(2 * new, 64), None, (keys, values), torch.tensor([0, 7]), 2)
    assert found[:new].all()
    assert not found[new:].any()
