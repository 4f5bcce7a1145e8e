"""What is compiled for generation, for every instruction set that this processor has."""

from collections.abc import Iterator

import pytest
import torch

from convmodel.hf_model.kernels import can_multiply, log_sums, native

INSTRUCTIONS = native.instructions() if native else []


@pytest.fixture(params=INSTRUCTIONS, autouse=True)
def instructions(request: pytest.FixtureRequest) -> Iterator[None]:
    native.use(request.param)
    yield
    native.use(INSTRUCTIONS[0])


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
