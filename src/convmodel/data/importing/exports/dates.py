"""Dates and times as people write them: day, month and year in any order, and a clock of 12 or 24 hours.

Owns: finding the order of day, month and year in a whole file, and the 12-hour clock. Knows no file format.
"""

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from convmodel.errors import ConversationError

DATE = r"(?P<date>(?:\d{4}|\d{1,2})(?P<mark>[/.\-])\s?\d{1,2}(?P=mark)\s?(?:\d{4}|\d{1,2}))\.?"
"""A date of three numbers with the same mark between them, as part of a regular expression."""

_MERIDIEM = r"[ap]\.?\s?m\.?|d[eu]\.|午前|午後|上午|下午|오전|오후"
_AFTER_NOON = ("p", "du", "午後", "下午", "오후")
CLOCK = (
    rf"(?:(?P<before>{_MERIDIEM})\s?)?(?P<hour>\d{{1,2}})[:.](?P<minute>\d{{2}})"
    rf"(?:[:.](?P<second>\d{{2}}))?(?:\s?(?P<after>{_MERIDIEM}))?"
)
"""A time of day of 12 or 24 hours, as part of a regular expression that ignores case."""

_ORDERS = {"dmy": "day/month/year", "mdy": "month/day/year", "ymd": "year/month/day"}
_RIVALS = {"dmy": {"mdy"}, "mdy": {"dmy"}, "ymd": {"dmy", "mdy"}}  # orders that look alike


@dataclass(frozen=True, slots=True)
class WrittenDate:
    """A date and time of a file, before it is known which number is the day.

    Attributes:
        text: The date as written: three numbers, with marks between them.
        line: Its line in the file.
        clock: Hour (of 24), minute and second.
        halved: Whether the file has AM or PM.
        weekday: The day of the week, Monday as 0, if the file has it.
    """

    text: str
    line: int
    clock: tuple[int, int, int] = (0, 0, 0)
    halved: bool = False
    weekday: int | None = None

    def at(self, order: str) -> datetime:
        """Returns the date and time, with the numbers read in an order such as `dmy`.

        Raises:
            ValueError: If there is no such date, or no such time.
        """
        day, month, year = self._numbers(order)
        return datetime(year if year > 99 else year + 2000, month, day, *self.clock)

    def fits(self, order: str) -> bool:
        """Returns whether the numbers may be in this order: 31 February fits `dmy` as a wrong date, 12/31 does not."""
        day, month, _ = self._numbers(order)
        if not (1 <= month <= 12 and 1 <= day <= 31):
            return False
        if self.weekday is None:
            return True
        try:
            return self.at(order).weekday() == self.weekday
        except ValueError:  # a wrong date, which may have any order
            return True

    def _numbers(self, order: str) -> tuple[int, int, int]:
        number = dict(zip(order, map(int, re.findall(r"\d+", self.text)), strict=True))
        return number["d"], number["m"], number["y"]


def clock_of(match: re.Match[str]) -> tuple[int, int, int]:
    """Returns hour (of 24), minute and second of a match of `CLOCK`; they may still be impossible, as 25:00 is."""
    hour, half = int(match["hour"]), (match["before"] or match["after"] or "").casefold()
    if half and hour <= 12:  # some phones write 21:41 PM
        hour = hour % 12 + (12 if half.startswith(_AFTER_NOON) else 0)
    return hour, int(match["minute"]), int(match["second"] or 0)


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
    firsts = ((order, next((date for date in dates if not date.fits(order)), None)) for order in _ORDERS)
    misfits = {order: misfit for order, misfit in firsts if misfit}
    left = [order for order in _ORDERS if order not in misfits]
    if not left:
        one, other = sorted(misfits.values(), key=lambda written: written.line)[-2:]
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
    return left[0], f"dates read as {_ORDERS[left[0]]}, {why}"


def _steps_back(dates: Sequence[WrittenDate], order: str) -> float:
    return sum(later < earlier for earlier, later in pairwise(_moments(dates, order)))


def _dots_before_day(dates: Sequence[WrittenDate], order: str) -> float:
    return order == "mdy" and any("." in written.text for written in dates)


def _span(dates: Sequence[WrittenDate], order: str) -> float:
    moments = _moments(dates, order)
    return (max(moments) - min(moments)).total_seconds() if moments else 0


def _unlikeliness(dates: Sequence[WrittenDate], order: str) -> float:
    halved = any(written.halved for written in dates)
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
