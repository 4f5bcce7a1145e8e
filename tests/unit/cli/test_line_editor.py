"""The keys of `convmodel chat`, its history file, and completion."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from prompt_toolkit.input import PipeInput, create_pipe_input
from prompt_toolkit.output import DummyOutput

from convmodel.cli.line_editor import HISTORY_LIMIT, LineEditor, history_file


@pytest.fixture
def keys() -> Iterator[PipeInput]:
    with create_pipe_input() as keys:
        yield keys


def editor(keys: PipeInput, history: Path | None = None, words: tuple[str, ...] = ()) -> LineEditor:
    return LineEditor(
        lambda line: [word for word in words if word.startswith(line)], history, input=keys, output=DummyOutput()
    )


@pytest.mark.parametrize(
    ("typed", "entry"),
    [
        ("Hello\r", "Hello"),
        ("Helo\x1b[Dl\r", "Hello"),  # arrow left
        ("first\x1b\rsecond\r", "first\nsecond"),  # Alt+Enter
        ("\x1b[200~first\r\nsecond\nthird\n\x1b[201~\r", "first\nsecond\nthird\n"),  # a paste
        ("日本\x7f語\r", "日語"),  # backspace
        ("/q\t\r", "/quit"),
    ],
)
def test_an_entry_is_what_was_typed(keys: PipeInput, typed: str, entry: str) -> None:
    keys.send_text(typed)
    assert editor(keys, words=("/quit", "/save")).read(0) == entry


def test_ctrl_c_and_ctrl_d(keys: PipeInput) -> None:
    reader = editor(keys)
    keys.send_text("Hel\x03")
    with pytest.raises(KeyboardInterrupt):
        reader.read(0)
    keys.send_text("\x04")
    with pytest.raises(EOFError):
        reader.read(0)


def test_the_history_is_kept_between_starts_and_private(keys: PipeInput, tmp_path: Path) -> None:
    file = tmp_path / "state" / "convmodel" / "history"
    old_mask = os.umask(0)
    try:
        keys.send_text("first\rtwo\x1b\rlines\r")
        reader = editor(keys, file)
        assert [reader.read(0), reader.read(0)] == ["first", "two\nlines"]
    finally:
        os.umask(old_mask)

    keys.send_text("\x1b[A\r")  # arrow up
    assert editor(keys, file).read(0) == "two\nlines"
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.parent.stat().st_mode) == 0o700


def test_a_question_is_not_in_the_history(keys: PipeInput, tmp_path: Path) -> None:
    keys.send_text("y\r")
    assert editor(keys, tmp_path / "history").ask("Quit?") == "y"
    assert (tmp_path / "history").read_bytes() == b""


def test_the_history_does_not_grow_without_end(keys: PipeInput, tmp_path: Path) -> None:
    file = tmp_path / "history"
    file.write_text("".join(f"\n# time\n+turn {number}\n" for number in range(HISTORY_LIMIT + 5)))

    editor(keys, file)

    kept = [line[1:] for line in file.read_text().splitlines() if line.startswith("+")]
    assert kept == [f"turn {number}" for number in range(5, HISTORY_LIMIT + 5)]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["history"]


def test_the_history_is_in_the_folder_for_state(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    assert history_file() == tmp_path / "convmodel" / "chat_history"
    monkeypatch.delenv("XDG_STATE_HOME")
    assert history_file() == Path.home() / ".local/state/convmodel/chat_history"
