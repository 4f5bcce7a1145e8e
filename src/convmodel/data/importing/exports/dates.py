"""Dates and times as people write them: which number is the day, and what the clock says.

Owns: telling day, month and year apart over a whole file, and the 12-hour clock. Knows no file format.
"""

import re
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise

from convmodel.data.reading.problems import Problems
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
_RIVALS = {"dmy": {"mdy"}, "mdy": {"dmy"}, "ymd": {"dmy", "mdy"}}  # what each may be mistaken for


@dataclass(frozen=True, slots=True)
class WrittenDate:
    """A date and time as a file has them, before it is known which number is the day.

    Attributes:
        text: The date as written: three numbers, with marks between them.
        line: The line it is written on.
        clock: Hour, minute and second of 24 hours.
        halved: Whether the file said before or after noon.
        weekday: The day of the week, Monday as 0, if the file tells it.
    """

    text: str
    line: int
    clock: tuple[int, int, int] = (0, 0, 0)
    halved: bool = False
    weekday: int | None = None

    def at(self, order: str) -> datetime:
        """Returns the moment, when the numbers are read in an order such as `dmy`.

        Raises:
            ValueError: If there is no such date, or no such time.

        Example:
            >>> WrittenDate("31/12/21", 1, (21, 41, 0)).at("dmy").isoformat()
            '2021-12-31T21:41:00'
        """
        day, month, year = self._numbers(order)
        return datetime(year if year > 99 else year + 2000, month, day, *self.clock)

    def fits(self, order: str) -> bool:
        """Tells whether the numbers may be in this order.

        Example:
            >>> WrittenDate("12/31/21", 1).fits("dmy"), WrittenDate("31/02/21", 1).fits("dmy")
            (False, True)
        """
        day, month, _ = self._numbers(order)
        if not (1 <= month <= 12 and 1 <= day <= 31):
            return False
        if self.weekday is None:
            return True
        try:
            return self.at(order).weekday() == self.weekday
        except ValueError:  # a wrong date, which says nothing of the order
            return True

    def _numbers(self, order: str) -> tuple[int, int, int]:
        number = dict(zip(order, map(int, re.findall(r"\d+", self.text)), strict=True))
        return number["d"], number["m"], number["y"]


def clock_of(match: re.Match[str]) -> tuple[int, int, int]:
    """Returns hour (of 24), minute and second of a match of `CLOCK`; they may still be impossible, as 25:00 is.

    Example:
        >>> clock_of(re.fullmatch(CLOCK, "9:41 p. m."))
        (21, 41, 0)
    """
    hour, half = int(match["hour"]), (match["before"] or match["after"] or "").casefold()
    if half and hour <= 12:  # some phones write 21:41 PM
        hour = hour % 12 + (12 if half.startswith(_AFTER_NOON) else 0)
    return hour, int(match["minute"]), int(match["second"] or 0)


def date_order(dates: Sequence[WrittenDate], file: str) -> tuple[str, str]:
    """Finds the order of the numbers in all dates of a file, and says for the user how it was found.

    A number that can be no month or no day decides, or a weekday. If none does, it is the order in which the dates
    least often step back in time; then, in dates with dots, one where the month is not first; then the one in which the
    dates lie closest together. If nothing tells, the month comes first where the clock has 12 hours, otherwise the day.

    Raises:
        ConversationError: If no order fits all dates.

    Example:
        >>> date_order([WrittenDate("1/2/2021", 1), WrittenDate("1/13/2021", 2)], "chat.txt")
        ('mdy', 'dates read as month/day/year, as line 2 shows (1/13/2021)')
    """
    dates = [written for written in dates if any(map(written.fits, _ORDERS))]  # the others are wrong in any order
    firsts = ((order, next((each for each in dates if not each.fits(order)), None)) for order in _ORDERS)
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


def moment(written: WrittenDate, order: str, place: str, problems: Problems) -> datetime | None:
    """Reads a date and time whose order is known; None if there is no such date, which is a problem.

    Raises:
        ConversationError: If there is no such date, and bad data is to end the reading.

    Example:
        >>> moment(WrittenDate("31/02/2021", 7), "dmy", "chat.txt:7", Problems("skip")) is None
        True
    """
    try:
        return written.at(order)
    except ValueError as error:
        clock = ":".join(f"{number:02}" for number in written.clock)
        problems.add(f"{place}: there is no {written.text} {clock} ({error}): correct it, or remove the message")
        return None


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
    (_unlikeliness, "a guess from the kind of clock, as no line tells day and month apart"),
)


def _moments(dates: Sequence[WrittenDate], order: str) -> list[datetime]:
    moments = []
    for written in dates:
        with suppress(ValueError):  # a wrong date is reported where it is read
            moments.append(written.at(order))
    return moments
