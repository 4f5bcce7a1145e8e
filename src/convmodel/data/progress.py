"""Progress on a terminal: the one console of standard error, and progress bars.

Owns: what a bar shows, and that only a terminal shows one. Does not know what progresses.
"""

import sys
from types import TracebackType
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TaskID, TextColumn
from rich.table import Column
from rich.text import Text

_REFRESHES = 4  # per second; more would cost time of the work itself
_WORD_WIDTH = 16  # longest description in columns, so that the bar keeps ten of 80


console = Console(stderr=True)
"""Standard error: progress, messages and errors. Bars and messages share it, so that neither overwrites the other."""


class ProgressBar:
    """A description, a bar, a count, the speed, the time left, and notes on a second line; nothing but on a terminal.

    A context manager. Without a total it counts and shows no bar.
    """

    def __init__(
        self, description: str, total: float | None = None, *, unit: str, completed: int = 0, per_second: str = ""
    ) -> None:
        """Prepares a bar that begins at `completed`.

        `unit` is a plural, such as `steps`. The speed is in this unit, or in `per_second` if the caller reports it.
        """
        self._progress = _Bars(
            console=console,
            transient=True,
            refresh_per_second=_REFRESHES,
            expand=True,
            redirect_stdout=sys.stdout.isatty(),  # a file or a pipe gets what is printed meanwhile
        )
        self._fields: dict[str, Any] = {"unit": unit, "per_second": per_second, "speed_now": None}
        self._task: TaskID = self._progress.add_task(description, total=total, completed=completed, **self._fields)

    def __enter__(self) -> "ProgressBar":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def start(self) -> None:
        """Shows the bar."""
        if console.is_terminal:
            self._progress.start()

    def close(self) -> None:
        """Removes the bar from the terminal."""
        if self._progress.live.is_started:
            self._progress.stop()

    def update(self, completed: float | None = None, *, note: str | None = None, speed: float | None = None) -> None:
        """Shows how much is completed; what is None stays as it was. `speed` is in `per_second`."""
        fields: dict[str, Any] = {} if speed is None else {"speed_now": speed}
        self._progress.update(self._task, completed=completed, **fields)
        if note is not None:
            self._progress.note = note

    def show(self, description: str, completed: float, total: float | None = None, unit: str | None = None) -> None:
        """Shows one of several steps of the work, each with a total, a unit and a speed of its own."""
        fields: dict[str, Any] = {} if unit is None else {"unit": unit}
        if self._progress.tasks[0].description != description:
            self._progress.remove_task(self._task)
            self._task = self._progress.add_task(description, total=total, **(self._fields | fields))
        self._progress.update(self._task, completed=completed, **fields)


class _Bars(Progress):
    """Rich's progress with a line for notes below it."""

    note = ""

    def __init__(self, **options: Any) -> None:
        words = TextColumn(
            "{task.description}", table_column=Column(no_wrap=True, overflow="ellipsis", max_width=_WORD_WIDTH)
        )
        super().__init__(words, _Bar(), _Count(), _Speed(), _TimeLeft(), **options)

    def get_renderables(self) -> Any:
        yield from super().get_renderables()
        if self.note:
            yield Text(self.note, style="dim")


class _Bar(BarColumn):
    def __init__(self) -> None:
        super().__init__(bar_width=None, table_column=Column(min_width=10, ratio=1))

    def render(self, task: Task) -> Any:
        return super().render(task) if task.total is not None else Text()


class _Fixed(ProgressColumn):
    """A column that is never cut off."""

    def __init__(self) -> None:
        super().__init__(table_column=Column(no_wrap=True, justify="right"))


class _Count(_Fixed):
    def render(self, task: Task) -> RenderableType:
        if task.fields["unit"] == "bytes":
            done, total = size_text(task.completed), task.total and size_text(task.total)
        else:
            done, total = f"{task.completed:,.0f}", task.total and f"{task.total:,.0f} {task.fields['unit']}"
        return Text(f"{done}/{total}" if total else f"{done} {task.fields['unit']}".removesuffix(" bytes"))


class _Speed(_Fixed):
    def render(self, task: Task) -> RenderableType:
        if task.fields["speed_now"] is not None:
            return Text(f"{task.fields['speed_now']:,.0f} {task.fields['per_second']}", style="cyan")
        speed, unit = task.finished_speed or task.speed, task.fields["unit"]
        if not speed:
            return Text("-/s", style="cyan")
        if unit == "bytes":
            return Text(f"{size_text(speed)}/s", style="cyan")
        return Text(f"{speed:,.0f}/s" if speed >= 10 else f"{speed:.2g}/s", style="cyan")


class _TimeLeft(_Fixed):
    def render(self, task: Task) -> RenderableType:
        seconds = task.time_remaining if task.total is not None else task.elapsed
        words = " left" if task.total is not None else ""
        if seconds is None:
            return Text(f"--:--{words}")
        minutes, seconds = divmod(int(seconds), 60)
        hours, minutes = divmod(minutes, 60)
        return Text(f"{hours}:{minutes:02}:{seconds:02}{words}" if hours else f"{minutes}:{seconds:02}{words}")


def size_text(count: float) -> str:
    """Returns a size as downloads show it.

    Example:
        >>> size_text(999), size_text(548_105_171), size_text(3_100_000_000)
        ('999 bytes', '548 MB', '3.1 GB')
    """
    if count < 1e3:
        return f"{count:.0f} bytes"
    for size, name in ((1e6, "kB"), (1e9, "MB")):
        if count < size * 0.9995:
            return f"{count / size * 1e3:.0f} {name}"
    return f"{count / 1e9:.1f} GB"
