"""Rounding weights to 8 bits: scales of rows and columns."""

import pytest
import torch

from convmodel.hf_model.int8_rounding import absmax, column_scales


def test_memory_between_the_rows_of_a_view_stays() -> None:
    """Only what is the tensor's own goes back to the system."""
    whole = torch.ones(4096, 2048)
    absmax(whole[:, :1024], release=True)

    assert whole.all()


def test_rows_are_scaled_by_their_largest_number() -> None:
    numbers, scales = absmax(torch.tensor([[1.0, -2.0, 0.5], [0.0, 0.0, 0.0]]))
    assert numbers.tolist() == [[64, -127, 32], [0, 0, 0]]
    assert scales[0].item() == pytest.approx(2 / 127)
    assert numbers.dtype == torch.int8


def test_columns_that_are_larger_than_others_are_made_smaller() -> None:
    torch.manual_seed(0)
    factors = torch.ones(96)
    factors[::7] = 100.0
    one, other = torch.randn(2, 40, 96) * factors
    columns = column_scales([one, other])
    assert torch.equal(columns, column_scales([torch.cat([one, other])]))
    assert columns.median() == 1
    assert ((columns[::7] > 5) & (columns[::7] < 20)).all()

    def error(given: torch.Tensor | None) -> torch.Tensor:
        integers, scales = absmax(one, given)
        rounded = integers * scales * (1.0 if given is None else given)
        return (rounded - one).norm() / one.norm()

    assert error(columns) < error(None)


@pytest.mark.parametrize("weight", [torch.zeros(2, 3), torch.tensor([[0.0, 2.0, 0.0], [0.0, 0.0, 0.0]])])
def test_columns_without_weights_have_the_scale_1(weight: torch.Tensor) -> None:
    assert column_scales([weight]).tolist() == [1.0, 1.0, 1.0]


def test_of_a_large_matrix_some_rows_are_looked_at_from_its_begin_to_its_end() -> None:
    weight = torch.ones(9000, 3)
    weight[:, 2] = 1 / 16
    assert column_scales([weight]).tolist() == [1.0, 1.0, 0.25]
    for rows in (slice(100), slice(8000, None)):
        changed = weight.clone()
        changed[rows] = 1.0
        assert column_scales([changed]).tolist() == [1.0, 1.0, 1.0]
