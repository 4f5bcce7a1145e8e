"""Streamed text breaks between words, whatever pieces it arrives in."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convmodel.cli.word_wrap import WordWrap


def shown(pieces: list[str], columns: int) -> list[str]:
    """The lines of a terminal that gets these pieces; moving left and erasing to the end is all it understands."""
    wrap, lines, column = WordWrap(lambda: columns), [""], 0
    output = "".join(wrap.feed(piece) for piece in pieces)
    while output:
        if output.startswith("\x1b["):
            left = int(output[2 : output.index("D")])
            column -= left
            assert column >= 0
            output = output[output.index("D") + 1 :].removeprefix("\x1b[K")
            lines[-1] = lines[-1][:column]
        elif output[0] == "\n":
            lines.append("")
            column, output = 0, output[1:]
        else:
            lines[-1] += output[0]
            column, output = column + 1, output[1:]
    return lines


@pytest.mark.parametrize("pieces", [["two words here"], [*"two words here"], ["two w", "ords h", "ere"]])
def test_a_word_that_does_not_fit_moves_to_the_next_line(pieces: list[str]) -> None:
    assert shown(pieces, 9) == ["two ", "words ", "here"]


def test_a_word_longer_than_a_line_is_broken() -> None:
    assert shown(["a ", "incomprehensibilities"], 9) == ["a ", "incompre", "hensibil", "ities"]


def test_wide_characters_break_anywhere() -> None:
    wrap = WordWrap(lambda: 8)
    assert wrap.feed("日本語の文 章") == "日本語\nの文 章"  # two columns each


def test_control_characters_do_not_reach_the_terminal() -> None:
    assert WordWrap(lambda: 80).feed("a\x1b[2Jb\tc\r\nd\x07") == "a�[2Jb c \nd�"


@given(
    st.lists(st.text("ab \n", max_size=7), max_size=9),
    st.integers(4, 12),
)
def test_the_words_are_those_of_the_text(pieces: list[str], columns: int) -> None:
    lines = shown(pieces, columns)

    assert max(map(len, lines)) < columns
    words = "".join(pieces).split()
    if all(len(word) < columns for word in words):
        assert " ".join(lines).split() == words
