"""The standard streams of the commands, as Windows and the C locale make them."""

import io
import sys
from typing import Any

import pytest

from convmodel.cli.streams import read_line, use_utf8, writes_any_text
from convmodel.errors import ConfigError


class Stream(io.TextIOWrapper):
    """A standard stream in CP-1252, as Windows makes it."""

    def __init__(self, content: bytes = b"", *, terminal: bool = False) -> None:
        super().__init__(io.BytesIO(content), encoding="cp1252", newline=None)
        self._terminal = terminal

    def isatty(self) -> bool:
        return self._terminal


def replace_streams(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replaces the streams in the test itself: pytest sets its own before each."""
    monkeypatch.delenv("PYTHONIOENCODING", raising=False)
    for name in ("stdin", "stdout", "stderr"):
        monkeypatch.setattr(sys, name, Stream())


def written(stream: Any) -> bytes:
    stream.flush()
    return bytes(stream.buffer.getvalue())


def test_pipes_are_utf8(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_streams(monkeypatch)
    monkeypatch.setattr(sys, "stdin", Stream("Hi \U0001f600 \xff\n".encode()))
    use_utf8()
    sys.stdout.write("é \U0001f600\n")
    assert written(sys.stdout) == "é \U0001f600\n".encode()
    assert read_line() == "Hi \U0001f600 \xff\n"
    assert read_line() == ""
    assert writes_any_text()


def test_a_terminal_and_a_chosen_encoding_are_kept_and_what_they_lack_is_replaced(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    replace_streams(monkeypatch)
    monkeypatch.setattr(sys, "stdout", Stream(terminal=True))
    use_utf8()
    sys.stdout.write("é \U0001f600")
    assert written(sys.stdout) == b"\xe9 ?"
    assert not writes_any_text()
    monkeypatch.setattr(sys, "stderr", Stream())
    monkeypatch.setenv("PYTHONIOENCODING", "cp1252")
    use_utf8()
    sys.stderr.write("é \U0001f600")
    assert written(sys.stderr) == b"\xe9 ?"


def test_input_in_another_encoding_is_an_error_that_names_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_streams(monkeypatch)
    monkeypatch.setattr(sys, "stdin", Stream(b"caf\xe9\n"))
    use_utf8()
    with pytest.raises(ConfigError, match=r"not valid utf-8: it has the byte 0xe9; .* set PYTHONIOENCODING"):
        read_line()


@pytest.mark.parametrize(
    ("errors", "text"), [("replace", "caf\ufffd\n"), ("ignore", "caf\n"), ("surrogateescape", None)]
)
def test_how_errors_of_the_input_are_handled_can_be_chosen(
    monkeypatch: pytest.MonkeyPatch, errors: str, text: str | None
) -> None:
    replace_streams(monkeypatch)
    stream = Stream(b"caf\xe9\n")
    stream.reconfigure(encoding="utf-8", errors=errors)
    monkeypatch.setattr(sys, "stdin", stream)
    monkeypatch.setenv("PYTHONIOENCODING", f"utf-8:{errors}")
    use_utf8()
    if text is not None:
        assert read_line() == text
    else:
        with pytest.raises(ConfigError, match="0xe9"):
            read_line()


def test_streams_that_cannot_be_changed_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_streams(monkeypatch)
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    monkeypatch.setattr(sys, "stdin", None)
    use_utf8()
    assert writes_any_text()
