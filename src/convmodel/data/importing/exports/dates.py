"""Dates as people write them: day, month and year in any order.

Owns: finding the order of day, month and year in a whole file. Calendars are in `calendars`. Knows no file
format.
"""

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime, time
from functools import lru_cache
from itertools import pairwise

from convmodel.data.importing.exports.calendars import calendar_of, gregorian
from convmodel.data.importing.exports.clocks import NO_TIME, Clock
from convmodel.errors import ConversationError

DATE = (
    r"(?P<date>\d{1,4}\s?(?:(?P<mark>[/.\-])\s?\d{1,2}\s?(?P=mark)\s?\d{1,4}"
    r"|[年년]\s?\d{1,2}\s?[月월]\s?\d{1,2}\s?[日일]))\.?"
)
"""A date of three numbers with the same mark between them, as part of a regular expression."""

_ORDERS = {"dmy": "day/month/year", "mdy": "month/day/year", "ymd": "year/month/day"}
_RIVALS = {"dmy": {"mdy"}, "mdy": {"dmy"}, "ymd": {"dmy", "mdy"}}  # orders that look alike


@dataclass(frozen=True, slots=True)
class WrittenDate:
    """A date and time of a file, before it is known which number is the day.

    Attributes:
        text: The date as written: three numbers, with marks between them.
        line: Its line in the file.
        weekday: The day of the week, Monday as 0, if the file has it.
    """

    text: str
    line: int
    clock: Clock = NO_TIME
    weekday: int | None = None

    def at(self, order: str) -> datetime:
        """Returns the date and time, with the numbers read in an order such as `dmy`.

        Raises:
            ValueError: If there is no such date, or no such time.
        """
        return datetime.combine(_day(self.text, order), time(*self.clock.time))

    def calendar(self, order: str) -> str:
        """Returns the name of the calendar of the year, which must be plausible."""
        return calendar_of(_numbers(self.text, order)[2])

    def fits(self, order: str) -> bool:
        """Returns whether the numbers may be in this order: 31 February fits `dmy` as a wrong date, 12/31 does not."""
        day, month, _ = _numbers(self.text, order)
        if not (1 <= month <= 12 and 1 <= day <= 31) or (order != "ymd" and re.search("[年년]", self.text)):
            return False
        if self.weekday is None:
            return True
        try:
            return self.at(order).weekday() == self.weekday
        except ValueError:  # a wrong date, which may have any order
            return True


@lru_cache  # many messages have one date
def _numbers(text: str, order: str) -> tuple[int, int, int]:
    number = dict(zip(order, map(int, re.findall(r"\d+", text)), strict=True))
    return number["d"], number["m"], number["y"]


@lru_cache
def _day(text: str, order: str) -> date:
    day, month, year = _numbers(text, order)
    return gregorian(year, month, day)


def date_order(dates: Sequence[WrittenDate], file: str) -> tuple[str, str]:
    """Finds the order of the numbers in all dates of a file, with a note for the user on how it was found.

    A weekday, or a number that cannot be a month or a day, decides. Otherwise it is the order in which the dates least
    often step back in time; among equals, in dates with dots, one where the month is not first; then the one with the
    shortest span of time. If all are equal, the month comes first with a clock of 12 hours, otherwise the day.

    Raises:
        ConversationError: If no order fits all dates.

    Example:
        >>> date_order([WrittenDate("1/2/2021", 1), WrittenDate("1/13/2021", 2)], "chat.txt")
        ('mdy', 'dates read as month/day/year, as line 2 shows (1/13/2021)')
    """
    dates = [written for written in dates if any(map(written.fits, _ORDERS))]  # the others are wrong in any order
    firsts = ((order, next((written for written in dates if not written.fits(order)), None)) for order in _ORDERS)
    misfits = {order: misfit for order, misfit in firsts if misfit}
    left = [order for order in _ORDERS if order not in misfits]
    if not left:
        by_line = {misfit.line: misfit for misfit in misfits.values()}
        one, other = (by_line[line] for line in sorted(by_line)[-2:])
        raise ConversationError(
            f"{file}:{one.line}: the date {one.text} is not in the same order of day and month as {other.text} in line "
            f"{other.line}: export the chat again, or split the file where the order changes"
        )
    ruled_out = {order: f"as line {misfit.line} shows ({misfit.text})" for order, misfit in misfits.items()}
    for measure, reason in _TESTS:
        lowest = min(measure(dates, order) for order in left)
        ruled_out |= {order: reason for order in left if measure(dates, order) > lowest}
        left = [order for order in left if order not in ruled_out]
    *_, why = (reason for order, reason in ruled_out.items() if order in _RIVALS[left[0]])
    return left[0], f"dates read as {_ORDERS[left[0]]}, {why}{_calendar_note(dates, left[0])}"


def _calendar_note(dates: Sequence[WrittenDate], order: str) -> str:
    for written in dates:
        with suppress(ValueError):
            year, calendar = written.at(order).year, written.calendar(order)
            is_other = calendar != "Gregorian"
            return f"; years are of the {calendar} calendar (line {written.line} is of {year})" if is_other else ""
    return ""


def _steps_back(dates: Sequence[WrittenDate], order: str) -> float:
    return sum(later < earlier for earlier, later in pairwise(_moments(dates, order)))


def _dots_before_day(dates: Sequence[WrittenDate], order: str) -> float:
    return order == "mdy" and any("." in written.text for written in dates)


def _span(dates: Sequence[WrittenDate], order: str) -> float:
    moments = _moments(dates, order)
    return (max(moments) - min(moments)).total_seconds() if moments else 0


def _unlikeliness(dates: Sequence[WrittenDate], order: str) -> float:
    halved = any(written.clock.halved for written in dates)
    return ("mdy", "dmy", "ymd").index(order) if halved else ("dmy", "mdy", "ymd").index(order)


_TESTS: tuple[tuple[Callable[[Sequence[WrittenDate], str], float], str], ...] = (
    (_steps_back, "the order in which the fewest messages step back in time"),
    (_dots_before_day, "as dates with dots are"),
    (_span, "the order in which the messages lie closest together"),
    (_unlikeliness, "a guess from the kind of clock, as every date is ambiguous"),
)


def _moments(dates: Sequence[WrittenDate], order: str) -> list[datetime]:
    moments = []
    for written in dates:
        with suppress(ValueError):  # a wrong date is reported where it is read
            moments.append(written.at(order))
    return moments
