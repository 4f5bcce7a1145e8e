"""Times of day: words for its parts in many languages, each read as the hours that it names."""

import re

import pytest

from convmodel.data.importing.exports.clocks import CLOCK, clock_of


def read(text: str, *words: str) -> tuple[int, int, int]:
    match = re.fullmatch(CLOCK, text)
    assert match is not None
    clock = clock_of(match, words)
    assert not clock.unknown
    return clock.time


@pytest.mark.parametrize(
    ("text", "word", "hour"),
    [
        ("12:05", "AM", 0),
        ("11:59", "a.\xa0m.", 11),
        ("12:05", "PM", 12),
        ("11:59", "p. m.", 23),
        ("21:41", "PM", 21),
        ("0:05", "午後", 12),
        ("0:05", "午前", 0),
        ("1:02", "凌晨", 1),
        ("12:30", "凌晨", 0),
        ("9:00", "早上", 9),
        ("11:30", "中午", 11),
        ("12:05", "中午", 12),
        ("1:05", "中午", 13),
        ("9:10", "晚上", 21),
        ("12:10", "晚上", 0),
        ("9:10", "रात", 21),
        ("2:00", "रात", 2),
        ("5:00", "शाम", 17),
        ("12:30", "दोपहर", 12),
        ("3:30", "দুপুর", 15),
        ("8:00", "malam", 20),
        ("12:05", "malam", 0),
        ("10:00", "siang", 10),
        ("2:00", "siang", 14),
        ("4:00", "sore", 16),
        ("3:05", "م", 15),
        ("3:05", "د.ن", 15),
        ("3:05", "אחה״צ", 15),
        ("3:05", "de la tarde", 15),
        ("3:05", "หลังเที่ยง", 15),
    ],
)
def test_the_hours_that_a_word_names(text: str, word: str, hour: int) -> None:
    assert read(text, word)[0] == hour


@pytest.mark.parametrize("text", ["15:05:11", "15.05.11", "15 h 05 min 11 s", "15時05分11秒", "15点05分11秒"])
def test_each_form_of_a_clock(text: str) -> None:
    match = re.match(CLOCK, text)

    assert match is not None
    assert clock_of(match, ()).time == (15, 5, 11)


def test_words_without_a_meaning_beside_a_time_are_passed_over() -> None:
    assert read("15.05", "klo") == read("15:05", "\u0433. \u0432", "ч.") == read("3:05", "alle", "p.m.") == (15, 5, 0)


def test_an_unknown_word_is_named() -> None:
    match = re.fullmatch(CLOCK, "3:05")

    assert match is not None
    assert clock_of(match, [None, "klo", " xyz "]).unknown == "xyz"
