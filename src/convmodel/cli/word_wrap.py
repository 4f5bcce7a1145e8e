"""Streamed text on a terminal, broken between words.

Owns: where a line breaks, and which characters reach the terminal. Does not know where the text comes from.
"""

import unicodedata
from collections.abc import Callable

from rich.cells import cell_len


class WordWrap:
    r"""Breaks lines between words, though a word arrives in pieces; a piece is shown at once.

    A word that turns out to be too long for its line moves to the next. Control characters, which could change the
    terminal, are replaced.

    Example:
        >>> wrap = WordWrap(lambda: 11)
        >>> wrap.feed("a sen") + wrap.feed("tence")
        'a sentence'
        >>> wrap.feed(" of")
        '\nof'
    """

    def __init__(self, columns: Callable[[], int]) -> None:
        """Begins on a new line; `columns` returns the current width of the terminal."""
        self._columns = columns
        self._column = 0  # where the next character is shown
        self._word = ""  # the part of the newest word that is on this line

    def feed(self, text: str) -> str:
        """Returns what to write to the terminal for the next piece of text."""
        # The last column stays empty: a cursor beyond it behaves differently from terminal to terminal.
        width = max(2, self._columns() - 1)
        return "".join(self._place(char, width) for char in text)

    def _place(self, char: str, width: int) -> str:
        if char == "\n":
            self._column, self._word = 0, ""
            return char
        kind = unicodedata.category(char)
        if char.isspace():
            shown, self._word = char if kind == "Zs" else " ", ""
        else:
            shown = "\N{REPLACEMENT CHARACTER}" if kind == "Cc" else char
        size, before = cell_len(shown), ""
        if self._column + size > width:
            if char.isspace():
                shown, size = "", 0  # the line break takes its place
            before = self._break(wide=size > 1)
        self._column += size
        if not char.isspace():
            self._word = "" if size > 1 else self._word + shown  # a line may break beside a wide character
        return before + shown

    def _break(self, *, wide: bool) -> str:
        """Begins a new line, and takes the unfinished word with it if there is anything before that word."""
        word, length = self._word, cell_len(self._word)
        if wide or not length or length == self._column:
            self._column, self._word = 0, ""
            return "\n"
        self._column = length
        return f"\x1b[{length}D\x1b[K\n{word}"
