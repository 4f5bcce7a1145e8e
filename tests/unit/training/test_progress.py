"""What a fit shows: lines where nobody looks on, a bar where somebody does."""

import io
import logging
import re
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from convmodel.data import progress as bars
from convmodel.training import progress as progress_module
from convmodel.training.progress import FitProgress, worsening

LOGS = {"loss": 3.4118, "perplexity": 30.319, "tokens_per_second": 512.4, "learning_rate": 1e-4}


def terminal(monkeypatch: pytest.MonkeyPatch) -> io.StringIO:
    """Makes standard error a terminal, and returns what is written there."""
    written = io.StringIO()
    console = Console(file=written, force_terminal=True, width=80, color_system=None)
    for module in (bars, progress_module):
        monkeypatch.setattr(module, "console", console)
    return written


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress_module, "time", clock)
    return clock


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Callable[[], list[str]]:
    """Gives the lines that were logged so far."""
    caplog.set_level(logging.INFO, logger=progress_module.__name__)
    return lambda: caplog.messages


def state(step: int, *, most: int = 300, first: bool = True) -> Any:
    return SimpleNamespace(global_step=step, max_steps=most, is_world_process_zero=first)


def test_a_line_says_all_of_it(clock: Clock, said: Callable[[], list[str]]) -> None:
    progress = FitProgress()
    progress.on_train_begin(None, state(0), None)
    clock.now += 9.3
    progress.on_log(None, state(20), None, logs=LOGS)
    progress.on_log(None, state(20), None, logs={"eval_loss": 7.1, "eval_perplexity": 1234.5})

    assert said() == [
        "step 20 of 300: loss 3.412, perplexity 30.3, 512 tokens per second, 2.2 min left",
        "step 20 of 300: validation perplexity 1,234",
    ]


def test_lines_come_every_ten_seconds_and_at_the_end(clock: Clock, said: Callable[[], list[str]]) -> None:
    progress = FitProgress()
    progress.on_train_begin(None, state(0, most=9), None)
    for step in range(1, 10):
        clock.now += 4
        progress.on_log(None, state(step, most=9), None, logs={"loss": 1.0})
        if step == 5:
            progress.on_log(None, state(step, most=9), None, logs={"eval_loss": 1.0, "eval_perplexity": 2.75})
    progress.on_log(None, state(9, most=9), None, logs={"train_loss": 2.0})
    assert len(said()) == 4
    progress.on_train_end(None, state(9, most=9), None)

    assert said() == [
        "step 1 of 9: loss 1.000, 32 s left",
        "step 4 of 9: loss 1.000, 20 s left",
        "step 5 of 9: loss 1.000, 16 s left, validation perplexity 2.8",
        "step 8 of 9: loss 1.000, 4 s left",
        "step 9 of 9: loss 1.000",
    ]


def test_a_validation_between_two_logs_takes_no_loss_of_another_update(
    clock: Clock, said: Callable[[], list[str]]
) -> None:
    progress = FitProgress()
    progress.on_train_begin(None, state(0), None)
    for step in (10, 20):
        clock.now += 1
        progress.on_log(None, state(step), None, logs={"loss": 1.0})
    progress.on_log(None, state(25), None, logs={"eval_loss": 1.0, "eval_perplexity": 2.75})
    progress.on_train_end(None, state(25), None)

    assert said() == [
        "step 10 of 300: loss 1.000, 29 s left",
        "step 20 of 300: loss 1.000, 28 s left",
        "step 25 of 300: validation perplexity 2.8",
    ]


def test_the_end_says_nothing_twice(clock: Clock, said: Callable[[], list[str]]) -> None:
    progress = FitProgress()
    progress.on_train_begin(None, state(0), None)
    progress.on_log(None, state(300), None, logs={"loss": 1.0})
    progress.on_train_end(None, state(300), None)

    assert said() == ["step 300 of 300: loss 1.000"]


def test_a_resumed_run_judges_by_its_own_speed(clock: Clock, said: Callable[[], list[str]]) -> None:
    progress = FitProgress()
    progress.on_train_begin(None, state(200), None)
    clock.now += 60
    progress.on_log(None, state(210), None, logs={"loss": 1.0, "perplexity": float("inf")})

    assert said() == ["step 210 of 300: loss 1.000, 9.0 min left"]


def test_other_processes_are_silent(
    clock: Clock, said: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    written = terminal(monkeypatch)
    progress = FitProgress()
    progress.on_train_begin(None, state(0, first=False), None)
    progress.on_step_end(None, state(1, first=False), None)
    progress.on_log(None, state(1, first=False), None, logs=LOGS)
    progress.on_train_end(None, state(1, first=False), None)

    assert said() == []
    assert written.getvalue() == ""


def test_a_person_sees_a_bar(said: Callable[[], list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    written = terminal(monkeypatch)
    progress = FitProgress()
    progress.on_train_begin(None, state(200), None)
    assert " 200/300 steps " in written.getvalue()  # where a resumed run continues

    progress.on_step_end(None, state(201), None)
    progress.on_log(None, state(201), None, logs=LOGS)
    progress.on_log(None, state(201), None, logs={"eval_perplexity": 25.14})
    progress.on_train_end(None, state(201), None)

    assert re.search(r" 201/300 steps +512 tokens/s +\d*-?[\d:-]* left", written.getvalue())
    assert "\nloss 3.412, perplexity 30.3, validation perplexity 25.1" in written.getvalue()
    assert said() == []

    progress.on_log(None, state(201), None, logs={"eval_perplexity": 24.0})  # the last validation, after the bar
    assert said() == ["step 201 of 300: validation perplexity 24.0"]


@pytest.mark.parametrize(
    ("history", "said"),
    [
        ([{"loss": 3.0}, {"loss": 2.0}, {"train_loss": 2.5}], ""),
        ([{"loss": 3.0}, {"loss": 3.4}], ""),  # noise
        ([], ""),
        (
            [{"loss": 3.0}, {"eval_loss": 2.9}, {"loss": 9.0}, {"eval_loss": 8.5}],
            "the validation loss rose from 2.900 to 8.500",
        ),
        ([{"loss": 3.0}, {"eval_loss": 2.9}, {"loss": 9.0}], "the loss rose from 3.000 to 9.000"),
        ([{"loss": 9.0}], "the loss is 9.000, while guessing has 6.908"),
    ],
)
def test_a_run_that_ends_worse_than_it_began_is_described(history: list[dict[str, float]], said: str) -> None:
    assert worsening(history, vocabulary=1000) == said
