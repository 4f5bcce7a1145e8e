"""When a run validates, saves and stops."""

import logging
import os
import signal
import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

from convmodel.training.config import FitConfig
from convmodel.training.resume import eval_save_schedule
from convmodel.training.resume.eval_save_schedule import EvalSaveSchedule

ALONE = SimpleNamespace(world_size=1, process_index=0, device="cpu")


def decide(schedule: EvalSaveSchedule, step: int, epoch: float, steps: int = 12) -> tuple[bool, bool, bool]:
    """What follows an update: whether it validates, saves, and stops."""
    control = SimpleNamespace(should_evaluate=False, should_save=False, should_training_stop=False)
    schedule.on_step_end(ALONE, SimpleNamespace(global_step=step, max_steps=steps, epoch=epoch), control)
    return control.should_evaluate, control.should_save, control.should_training_stop


def steps_that(what: int, **options: Any) -> list[int]:
    schedule = EvalSaveSchedule(FitConfig(**options))
    return [step for step in range(1, 12) if decide(schedule, step, step / 5, 11)[what]]


def test_validation_comes_at_the_end_of_an_epoch_and_of_the_run() -> None:
    assert steps_that(0) == [5, 10, 11]


def test_validations_may_be_counted_in_updates() -> None:
    assert steps_that(0, eval_steps=4) == [4, 8, 11]


def test_the_end_of_a_cycle_is_validated() -> None:
    schedule = EvalSaveSchedule(FitConfig(eval_steps=4), cycles=(3, 9))

    assert [step for step in range(1, 12) if decide(schedule, step, step / 5, 11)[0]] == [3, 4, 8, 9, 11]


def test_checkpoints_are_counted_in_updates() -> None:
    assert steps_that(1, save_steps=4, output_dir="out") == [4, 8]
    assert steps_that(1, output_dir="out") == []


def test_the_clock_makes_checkpoints_that_do_not_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1000.0
    # Only this module's clock: event loops of other tests that saw a false time would sleep until it comes.
    monkeypatch.setattr(eval_save_schedule, "time", SimpleNamespace(monotonic=lambda: now))
    schedule = EvalSaveSchedule(FitConfig(save_minutes=2, save_steps=5, output_dir="out"))
    saved = []
    for step in range(1, 12):
        now += 50
        if decide(schedule, step, step / 20)[1]:
            saved.append((step, schedule.keep))
            schedule.on_save(None, None, None)

    assert saved == [(3, False), (5, True), (8, False), (10, True)]


def test_a_checkpoint_that_a_callback_asks_for_stays() -> None:
    schedule = EvalSaveSchedule(FitConfig(save_minutes=1e-9, output_dir="out"))

    decide(schedule, 1, 0.1)
    by_the_clock = schedule.keep
    schedule.on_save(None, None, None)
    control = SimpleNamespace(should_evaluate=False, should_save=True, should_training_stop=False)
    schedule.on_step_end(ALONE, SimpleNamespace(global_step=2, max_steps=12, epoch=0.2), control)

    assert (by_the_clock, control.should_save, schedule.keep) == (False, True, True)


def test_without_a_folder_nothing_is_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    schedule = EvalSaveSchedule(FitConfig(save_minutes=1e-9))

    assert decide(schedule, 1, 0.1) == (False, False, False)


@pytest.mark.parametrize(
    ("number", "output_dir", "message"),
    [
        (signal.SIGINT, "out", "Ctrl+C: saving ... (after this step; again to stop at once)"),
        (signal.SIGTERM, "out", "SIGTERM: saving ... (after this step; again to stop at once)"),
        (signal.SIGINT, None, "Ctrl+C: stopping ... (after this step; again to stop at once)"),
    ],
)
def test_a_signal_is_answered_before_the_step_ends(
    number: int, output_dir: str | None, message: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="convmodel")
    with EvalSaveSchedule(FitConfig(output_dir=output_dir)).handling_signals():
        os.kill(os.getpid(), number)
        until = time.monotonic() + 30
        while not caplog.messages and time.monotonic() < until:
            time.sleep(0.01)

    assert caplog.messages == [message]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_stops_after_the_update(number: int) -> None:
    schedule = EvalSaveSchedule(FitConfig(output_dir="out", save_minutes=0))

    with schedule.handling_signals():
        before = decide(schedule, 1, 0.1)
        os.kill(os.getpid(), number)
        after = decide(schedule, 2, 0.2)

    assert (before, after) == ((False, False, False), (False, True, True))
    assert (schedule.stopped_by, schedule.keep) == (number, False)


def test_a_second_signal_acts_as_ever() -> None:
    schedule = EvalSaveSchedule(FitConfig())

    def interrupt_twice() -> None:
        with schedule.handling_signals():
            os.kill(os.getpid(), signal.SIGINT)
            assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        interrupt_twice()


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    schedule = EvalSaveSchedule(FitConfig())
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with schedule.handling_signals():
            os.kill(os.getpid(), signal.SIGINT)
            assert decide(schedule, 1, 0.1)[2] is False
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)


def test_another_thread_leaves_signals_alone() -> None:
    seen: list[Any] = []

    def listen() -> None:
        with EvalSaveSchedule(FitConfig()).handling_signals():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()

    assert seen == [signal.getsignal(signal.SIGTERM)]
