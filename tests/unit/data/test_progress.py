"""What a progress bar shows at 80 and 100 columns, and that only a terminal shows one."""

import io
import re

import pytest
from rich.console import Console

from convmodel.data import progress
from convmodel.data.progress import ProgressBar


def shown(monkeypatch: pytest.MonkeyPatch, columns: int, *, terminal: bool = True) -> Console:
    """Makes standard error a terminal of this width."""
    console = Console(file=io.StringIO(), force_terminal=terminal, width=columns, color_system=None)
    monkeypatch.setattr(progress, "console", console)
    return console


def lines(console: Console) -> list[str]:
    """The lines on the terminal, as they were drawn last."""
    text = re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", console.file.getvalue())  # type: ignore[attr-defined]
    return [line.rstrip() for line in text.replace("\r", "\n").split("\n") if line.strip()]


@pytest.mark.parametrize("columns", [80, 100])
@pytest.mark.parametrize("description", ["fit", "a description that is too long"])
def test_a_bar_leaves_room_for_all_of_it(monkeypatch: pytest.MonkeyPatch, columns: int, description: str) -> None:
    console = shown(monkeypatch, columns)
    bar = ProgressBar(description, 123_456, unit="steps", per_second="tokens/s")
    bar.update(123_456, note="loss 3.412, perplexity 30.3", speed=123_456)
    bar._progress._tasks[bar._task].start_time = 0
    console.print(bar._progress.get_renderable())

    first, note = lines(console)

    assert len(first) <= columns
    assert first.startswith(description[:10])
    assert first.count("━") >= 10
    assert " 123,456/123,456 steps " in first
    assert " 123,456 tokens/s " in first
    assert first.endswith(" left")
    assert note == "loss 3.412, perplexity 30.3"


def test_the_speed_is_in_the_unit_unless_it_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    console = shown(monkeypatch, 80)
    bar = ProgressBar("generating", unit="contexts")
    monkeypatch.setattr(bar._progress, "get_time", lambda: now)
    for number in range(5):
        now += 0.5
        bar.update(number)
    console.print(bar._progress.get_renderable())

    assert re.search(r"generating +4 contexts +2/s", lines(console)[-1])


@pytest.mark.parametrize(("completed", "total", "words"), [(0, 5e8, "0 bytes/500 MB"), (2.5e9, 3e9, "2.5 GB/3.0 GB")])
def test_sizes_are_in_their_unit(monkeypatch: pytest.MonkeyPatch, completed: float, total: float, words: str) -> None:
    console = shown(monkeypatch, 80)
    bar = ProgressBar("downloading", total, unit="bytes")
    bar.update(completed)
    console.print(bar._progress.get_renderable())

    assert words in lines(console)[-1]


def test_a_bar_is_removed_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    console = shown(monkeypatch, 80)
    with ProgressBar("encoding", 3, unit="conversations") as bar:
        bar.update(2)
        bar._progress.refresh()
    assert "2/3 conversations" in lines(console)[-1]
    assert console.file.getvalue().endswith("\x1b[2K")  # type: ignore[attr-defined]


def test_nothing_is_shown_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    console = shown(monkeypatch, 80, terminal=False)
    with ProgressBar("encoding", 3, unit="conversations") as bar:
        bar.update(2)
    assert console.file.getvalue() == ""  # type: ignore[attr-defined]
