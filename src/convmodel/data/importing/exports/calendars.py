"""Years and days of the calendars that phones write: Gregorian, Buddhist, Persian, Minguo and Japanese.

Owns: which years are plausible in each. Knows no marks and no order of numbers.
"""

from datetime import date

YEARS = range(1990, 2060)
"""Plausible years of messages; other times are errors. Later years are of the Nepali calendar (2080 is 2023)."""

_BUDDHIST, _MINGUO = 543, 1911
ERAS = {"民國": _MINGUO, "民国": _MINGUO, "中華民國": _MINGUO, "令和": 2018, "R": 2018, "平成": 1988, "H": 1988}
"""The year before the first of eras that are written before a date."""

_PERSIAN = range(1369, 1410)  # later years, from 2031, are years of messages in the Islamic calendar, too
_PERSIAN_EPOCH = date(622, 3, 21).toordinal()


def gregorian(year: int, month: int, day: int) -> date:
    """Returns the day of a date whose year may be of another calendar, or of two digits.

    Two digits are of this century up to 49, of the Buddhist calendar from 50 (2007) to 79, which Thai phones write.

    Raises:
        ValueError: If there is no such day, or the year is not plausible in any calendar.

    Example:
        >>> str(gregorian(2566, 10, 25)), str(gregorian(1402, 8, 3)), str(gregorian(112, 10, 25))
        ('2023-10-25', '2023-10-25', '2023-10-25')
    """
    if year in _PERSIAN:
        return _persian(year, month, day)
    return date(_gregorian_year(year), month, day)


def calendar_of(year: int) -> str:
    """Returns the name of the calendar that a plausible year belongs to."""
    if year in _PERSIAN:
        return "Persian"
    other = _gregorian_year(year) - year
    return {0: "Gregorian", 2000: "Gregorian", _MINGUO: "Minguo"}.get(other, "Buddhist")


def _gregorian_year(year: int) -> int:
    written = year + (2000 if year < 50 else 2500 if 50 <= year < 80 else 0)
    for gregorian_year in (written, written - _BUDDHIST, written + _MINGUO if year >= 100 else 0):
        if gregorian_year in YEARS:
            return gregorian_year
    raise ValueError(f"the year {year} belongs to no known calendar: choose the Gregorian one and export again")


def _persian(year: int, month: int, day: int) -> date:
    """Converts by the cycle of 8 leap years in 33, which holds for the years above."""

    def ordinal(year: int, month: int) -> int:
        return _PERSIAN_EPOCH + 365 * (year - 1) + (8 * year + 21) // 33 + 30 * (month - 1) + min(month - 1, 6)

    end = ordinal(year, month + 1) if month < 12 else ordinal(year + 1, 1)
    if not (1 <= month <= 12 and 1 <= day <= end - ordinal(year, month)):
        raise ValueError("day is out of range for month")
    return date.fromordinal(ordinal(year, month) + day - 1)
