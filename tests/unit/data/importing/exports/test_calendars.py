"""Calendars: years of other calendars are converted or refused, never taken as they are."""

from datetime import date, timedelta

import pytest

from convmodel.data.importing.exports.calendars import calendar_of, gregorian


@pytest.mark.parametrize(
    ("written", "expected", "calendar"),
    [
        ((2023, 10, 25), (2023, 10, 25), "Gregorian"),
        ((23, 10, 25), (2023, 10, 25), "Gregorian"),
        ((2566, 10, 25), (2023, 10, 25), "Buddhist"),
        ((66, 10, 25), (2023, 10, 25), "Buddhist"),
        ((2567, 2, 29), (2024, 2, 29), "Buddhist"),
        ((112, 10, 25), (2023, 10, 25), "Minguo"),
        ((1402, 8, 3), (2023, 10, 25), "Persian"),
        ((1403, 1, 1), (2024, 3, 20), "Persian"),
        ((1403, 12, 30), (2025, 3, 20), "Persian"),
        ((1404, 1, 1), (2025, 3, 21), "Persian"),
        ((1399, 12, 30), (2021, 3, 20), "Persian"),
    ],
)
def test_each_calendar(written: tuple[int, int, int], expected: tuple[int, int, int], calendar: str) -> None:
    assert gregorian(*written) == date(*expected)
    assert calendar_of(written[0]) == calendar


def test_persian_days_follow_each_other() -> None:
    days = []
    for year in range(1369, 1410):
        for month in range(1, 13):
            for day in range(1, 32):
                try:
                    days.append(gregorian(year, month, day))
                except ValueError:
                    assert day > 29

    assert days == [days[0] + timedelta(number) for number in range(len(days))]
    assert {gregorian(year, 1, 1).strftime("%m-%d") for year in range(1369, 1410)} == {"03-20", "03-21"}


@pytest.mark.parametrize("year", [1445, 1945, 5784, 300, 85, 1989, 2080, 2100, 2700, 0o777])
def test_years_of_no_known_calendar_are_refused(year: int) -> None:
    with pytest.raises(ValueError, match=f"the year {year} belongs to no known calendar"):
        gregorian(year, 10, 25)


@pytest.mark.parametrize(
    "written", [(2023, 2, 29), (2566, 13, 1), (1402, 12, 30), (1402, 7, 31), (1402, 0, 1), (1402, 13, 1)]
)
def test_impossible_days_are_refused(written: tuple[int, int, int]) -> None:
    with pytest.raises(ValueError, match=r"day is out of range|month must be"):
        gregorian(*written)
