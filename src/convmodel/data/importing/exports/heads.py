"""How a line of a dated text export begins: a date, a time and what separates them from the name.

Owns: every form of such a beginning, known or not, so that no message is taken for a line of the one before it. Knows
no program's own text.
"""

import re
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass

from convmodel.data.importing.exports.calendars import ERAS
from convmodel.data.importing.exports.clocks import CLOCK, WORDS, clock_of, is_word
from convmodel.data.importing.exports.dates import DATE, WrittenDate
from convmodel.data.importing.exports.names import is_like_a_sentence

MARKS = re.compile("[\u061c\u200b\u200e\u200f\u202a-\u202e\u2066-\u2069\ufeff]")
"""Invisible marks, which phones put around dates, numbers, names and their own text."""

_COMMA = r"(?P<comma>[,\u060c\u3001])?"
_CLOSING = r"(?(bracket)\]\s?|\)?(?:\s*[-\u2013\u2014\u2212]\s|(?P<colon>:)\s))"
_DATE_FIRST = re.compile(
    rf"(?P<bracket>\[)?(?:(?P<era>{WORDS})\s?)?{DATE}(?:\s?(?P<beside>{WORDS})(?=[,\u060c\u3001]))?{_COMMA}"
    rf"\s*\(?(?:(?P<before>{WORDS})\s?)?(?<!\d){CLOCK}(?:\s?(?P<after>{WORDS}))?\s?{_CLOSING}"
)
_CLOCK_FIRST = re.compile(
    rf"(?P<bracket>\[)?(?:(?P<before>{WORDS})\s?)?{CLOCK}(?:\s?(?P<after>{WORDS}))?(?:{_COMMA}\s+|(?<=,))"
    rf"(?:(?P<era>{WORDS})\s?)?{DATE}(?:\s?(?P<beside>{WORDS}))?\s?{_CLOSING}"
)
_MAY_BEGIN = re.compile(r"[^\w\n]{0,4}(?:[^\W\d_]{1,12}[^\w\n]{0,3}){0,2}\d")
_LONGEST = 120  # characters of a date, a time and a name
_MOST_WORDS = 3  # together, as in `de la mañana`; a sentence has more

_NUMBER = r"\d{1,4}"
_WORD = r"[^\W\d_][^\s\d.,:;|()\[\]/-]{0,11}"
# Atomic groups: what separates two numbers ends where the digits begin, however it is divided into words, and trying
# every division of each takes exponential time.
_MOMENT = (
    rf"(?P<opening>[\[(<\u3010]?)\s?(?P<moment>(?>(?:{_WORD}[\s.,]{{0,2}}){{0,2}}(?=\d)){_NUMBER}"
    rf"(?:(?>(?:\s?[/.:\u2236\-年月日년월일h時时시分T]\s?|(?:[^\w\n]|_){{1,3}}(?:{_WORD}[\s.,/\-]{{0,2}}){{0,3}})(?=\d))"
    rf"{_NUMBER}){{1,6}}[日일分분]?(?:\s?{_WORD}\.?)?)"
)
_SEPARATOR = r"(?P<separator>\s?[\])>\u3011|\t\u2013\u2014\u2212,;:\-]{1,2}\s?|\s)"
_CAPITALISED = r"[^\W\d_][^\n:\uff1a,;!?\"<>\[\]{}|=\t.]{0,39}?"
_PAIR = re.compile(r"\d\s?[/.:\-\u2236\uff0d\uff0e\uff0f\uff1a年년h時时시]\s?\d")


@dataclass(frozen=True, slots=True)
class Head:
    """The beginning of a line with a date and a time.

    Attributes:
        form: What the beginnings of one export have in common.
        kind: `[` in brackets, or `-` or `:` before the name.
        unknown: The word beside the date or time whose meaning is unknown; empty if there is none.
        rest: The line after it.
    """

    form: str
    kind: str
    date: WrittenDate
    unknown: str
    rest: str


def head_of(line: str, number: int) -> Head | None:
    """Reads the date and time that a line begins with; None if it does not begin so."""
    if not _MAY_BEGIN.match(line[:60]):
        return None
    start = MARKS.sub("", line[:_LONGEST])
    order, match = "date first", _DATE_FIRST.match(start)
    if not match:
        order, match = "clock first", _CLOCK_FIRST.match(start)
    if not match:
        return None
    clock = clock_of(match, (match["beside"], match["before"], match["after"]))
    unknown, date = clock.unknown, match["date"]
    if era := (match["era"] or "").strip():
        if era not in ERAS:
            unknown = unknown or era
        else:
            date = re.sub(r"\d+", lambda year: str(int(year[0]) + ERAS[era]), date, count=1)
    if len(unknown.split()) > _MOST_WORDS - 1:
        return None
    lengths = [max(len(number), 2) for number in re.findall(r"\d+", match["date"])]  # shows where the year is
    kind = "[" if match["bracket"] else match["colon"] or "-"
    halved = clock.halved or bool(unknown)
    parts = (order, kind, match["mark"], *lengths, match["comma"] or "", bool(match["second"]), halved)
    form = sys.intern(repr(parts))
    rest = line[match.end() :] if line.startswith(start) else _after(line, match.end())
    return Head(form, kind, WrittenDate(date, number, clock), unknown, rest)


def _is_moment(text: str) -> bool:
    return bool(_PAIR.search(text)) and not text[0].islower()


def _after(line: str, end: int) -> str:
    """Returns the rest of a line after a number of characters that are not marks; marks after them belong to it."""
    position = 0
    while end:
        end -= not MARKS.match(line[position])
        position += 1
    return line[position:]


def unknown_heads(names: Collection[str]) -> Callable[[str], bool]:
    """Returns a function that recognises the beginning of a message in a form that `head_of` does not read.

    It is a date or time and one of the names of the file with a colon; or a date and a time, or one of them in
    brackets, and other words with a colon that look like a name; or a time and a name between tabs, as LINE writes
    them. `12:30 works for me` and `2023-10-25 was nice: sun` are not.
    """
    known = "|".join(map(re.escape, sorted(names, key=len, reverse=True))) or r"(?!)"
    by_name = re.compile(rf"{_MOMENT}{_SEPARATOR}(?:{known})\s?[:\uff1a\t|]")
    by_form = re.compile(rf"{_MOMENT}{_SEPARATOR}(?P<name>{_CAPITALISED})\s?(?P<colon>[:\uff1a\t])")

    def begins_a_message(line: str) -> bool:
        if not _MAY_BEGIN.match(line[:60]):
            return False
        start = MARKS.sub("", line[:_LONGEST])
        if (match := by_name.match(start)) and _is_moment(match["moment"]):
            return True
        match = by_form.match(start)
        if not match or not _is_moment(match["moment"]) or is_like_a_sentence(match["name"]) or is_word(match["name"]):
            return False
        if match["colon"] == "\t":
            return match["separator"] == "\t"
        is_whole = len(re.findall(r"\d+", match["moment"])) >= 4 or match["opening"] == "["
        return is_whole and not match["name"][0].islower()

    return begins_a_message
