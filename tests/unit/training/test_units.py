"""Sizes, counts and durations as they are shown."""

import pytest

from convmodel.training.units import duration, short_count, size


@pytest.mark.parametrize(
    ("number", "shown"), [(0, "0 MiB"), (2**20, "1 MiB"), (1023 * 2**20, "1,023 MiB"), (2**30, "1.0 GiB")]
)
def test_size(number: int, shown: str) -> None:
    assert size(number) == shown


@pytest.mark.parametrize(("count", "shown"), [(0, "0"), (999_999, "999,999"), (10**6, "1.0 M"), (7 * 10**9, "7.0 B")])
def test_short_count(count: int, shown: str) -> None:
    assert short_count(count) == shown


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [(0.0, "1 s"), (59.0, "59 s"), (60.0, "1.0 min"), (3600.0, "1.0 h"), (86400.0, "1.0 days")],
)
def test_duration(seconds: float, shown: str) -> None:
    assert duration(seconds) == shown
