"""Wilson's interval of a share."""

import pytest

from convmodel.evaluation.wilson import wilson


@pytest.mark.parametrize(
    ("wins", "total", "low", "high"),
    [(8, 10, 0.490, 0.943), (0, 10, 0.0, 0.278), (10, 10, 0.722, 1.0), (500, 1000, 0.469, 0.531), (0, 0, 0.0, 1.0)],
)
def test_the_interval_is_that_of_published_tables(wins: int, total: int, low: float, high: float) -> None:
    assert wilson(wins, total) == pytest.approx((low, high), abs=5e-4)


def test_no_win_and_no_loss_reach_the_ends_exactly() -> None:
    assert wilson(0, 7)[0] == 0.0
    assert wilson(7, 7)[1] == 1.0
