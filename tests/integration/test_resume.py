"""A run that was stopped goes on as if it had not been: same weights, same losses, same best model, bit for bit."""

import logging
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from convmodel import ConversationModel
from convmodel.errors import ConfigError, SaveError, StoppedError
from convmodel.training.fit_result import FitResult
from convmodel.training.resume.manifest import damage
from convmodel.training.resume.run_folder import RunFolder
from fine_tuning import TALKS, Signalled, measured, no_file_larger_than, weights

VALID = [["Good morning! Did you sleep well?", "Not really, the neighbours had a party."], ["Yes", "No"]]
PLAIN = {"epochs": 2, "batch_size": 2, "logging_steps": 4}  # 6 updates an epoch
SHORT = {"epochs": 2, "batch_size": 3, "gradient_accumulation_steps": 3, "logging_steps": 3}  # 2, of 9 and 2 windows
PACKED = {"epochs": 3, "batch_size": 1, "packing": True, "max_length": 64, "logging_steps": 4}
PART = {"max_steps": 9, "batch_size": 2, "logging_steps": 1}  # ends within an epoch
WORSE = {"epochs": 4, "batch_size": 2, "learning_rate": 0.1, "eval_steps": 2, "early_stopping_patience": 2}
AUTO: dict[str, Any] = {"learning_rate": 2e-3, "logging_steps": 5}  # 11 updates an epoch; a second cycle from 34 on
FACTORED = PLAIN | {"optim": "adafactor", "learning_rate": 1e-2}
BF16 = PLAIN | {"precision": "bf16"}
CHECKPOINTED = PLAIN | {"gradient_checkpointing": True}
MERGED = PLAIN | {"lora": True, "merge": True, "learning_rate": 1e-2}

Load = Callable[..., ConversationModel]


class Crash(TrainerCallback):
    """Ends a run without a word, where it cannot save anything more."""

    def __init__(self, step: int) -> None:
        self._step = step

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self._step:
            raise RuntimeError("out of memory")


def fit(load: Load, folder: Path | None, *callbacks: TrainerCallback, **options: Any) -> tuple[FitResult, Any]:
    """Trains a fresh model, whose dropout is on; returns what was done and the weights it is left with."""
    model = load()
    output_dir = None if folder is None else str(folder)
    result = model.fit(
        TALKS, VALID, callbacks=callbacks, output_dir=output_dir, **{"learning_rate": 1e-3, "dropout": 0.1} | options
    )
    return result, weights(model)


def stop(load: Load, folder: Path, step: int, **options: Any) -> None:
    with pytest.raises(StoppedError, match=rf"SIGTERM stopped the run after step {step} of \d+; its state is in"):
        fit(load, folder, Signalled(step), **options)


def facts(result: FitResult) -> dict[str, Any]:
    """What two runs have in common that do the same: all but times."""
    timed = ("_runtime", "per_second", "runtime")
    history = [{name: log[name] for name in log if not name.endswith(timed)} for log in result.history]
    names = (
        "steps",
        "epochs",
        "train_loss",
        "before",
        "validation",
        "best_step",
        "stopped_early",
        "windows",
        "verdict",
    )
    return {name: getattr(result, name) for name in names} | {"history": history}


@pytest.fixture
def whole(load: Load, tmp_path: Path) -> Callable[..., tuple[FitResult, Any]]:
    """Runs the same without a stop, in a folder of its own."""
    return lambda **options: fit(load, tmp_path / "whole", **options)


def require_same(one: tuple[FitResult, Any], other: tuple[FitResult, Any], tmp_path: Path) -> None:
    assert facts(one[0]) == facts(other[0])
    for name, value in one[1].items():
        assert torch.equal(value, other[1][name]), name
    files = [(tmp_path / folder / "model.safetensors").read_bytes() for folder in ("whole", "parts")]
    assert files[0] == files[1]
    assert measured(tmp_path / "whole") == measured(tmp_path / "parts")


@pytest.mark.parametrize(
    ("options", "step"),
    [
        pytest.param(PLAIN, 1, id="first update", marks=pytest.mark.slow),
        pytest.param(PLAIN, 3, id="within an epoch and between two logs", marks=pytest.mark.slow),
        pytest.param(PLAIN, 4, id="at a log"),
        pytest.param(PLAIN, 6, id="end of an epoch", marks=pytest.mark.slow),
        pytest.param(PLAIN, 7, id="second epoch"),
        pytest.param(PLAIN, 12, id="last update", marks=pytest.mark.slow),
        pytest.param(SHORT, 1, id="accumulation", marks=pytest.mark.slow),
        pytest.param(SHORT, 2, id="accumulation, end of an epoch"),
        pytest.param(PACKED, 4, id="packed"),
        pytest.param(PART, 8, id="part of an epoch", marks=pytest.mark.slow),
        pytest.param(PART, 9, id="last update within an epoch", marks=pytest.mark.slow),
        pytest.param(WORSE, 3, id="between two validations", marks=pytest.mark.slow),
        pytest.param(WORSE, 4, id="at a validation"),
        pytest.param(AUTO, 17, id="first cycle", marks=pytest.mark.slow),
        pytest.param(AUTO, 33, id="end of a cycle", marks=pytest.mark.slow),
        pytest.param(AUTO, 40, id="second cycle", marks=pytest.mark.slow),
        pytest.param(FACTORED, 5, id="Adafactor", marks=pytest.mark.slow),
        pytest.param(BF16, 5, id="bf16", marks=pytest.mark.slow),
        pytest.param(CHECKPOINTED, 5, id="gradient checkpointing", marks=pytest.mark.slow),
        pytest.param(MERGED, 5, id="LoRA", marks=pytest.mark.slow),
    ],
)
def test_resumed_equals_uninterrupted(
    load: Load, whole: Callable[..., Any], tmp_path: Path, options: dict[str, Any], step: int
) -> None:
    expected = whole(**options)

    stop(load, tmp_path / "parts", step, **options)
    found = fit(load, tmp_path / "parts", **options)

    require_same(expected, found, tmp_path)
    assert expected[0].steps > 3


@pytest.mark.slow
def test_a_run_that_ran_out_of_patience_does_not_go_on(load: Load, whole: Callable[..., Any], tmp_path: Path) -> None:
    expected = whole(**WORSE)
    assert expected[0].stopped_early
    last = expected[0].steps

    stop(load, tmp_path / "parts", last, **WORSE)
    found = fit(load, tmp_path / "parts", **WORSE)

    require_same(expected, found, tmp_path)


@pytest.mark.slow
def test_a_run_may_be_stopped_at_every_update(load: Load, whole: Callable[..., Any], tmp_path: Path) -> None:
    expected = whole(**PLAIN)

    for step in range(1, 13):
        stop(load, tmp_path / "parts", step, **PLAIN)
    found = fit(load, tmp_path / "parts", **PLAIN)

    require_same(expected, found, tmp_path)


@pytest.mark.slow
def test_a_run_that_crashed_goes_on_from_its_last_checkpoint(
    load: Load, whole: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "convmodel")
    expected = whole(**PLAIN)
    place = tmp_path / "parts"

    with pytest.raises(RuntimeError, match="out of memory"):
        fit(load, place, Crash(11), save_steps=3, **PLAIN)
    assert sorted(path.name for path in place.glob("checkpoint-*")) == ["checkpoint-6", "checkpoint-9"]
    found = fit(load, place, save_steps=3, **PLAIN)

    assert f"resuming at step 9 of 12 from {place / 'checkpoint-9'}" in caplog.text
    require_same(expected, found, tmp_path)


@pytest.mark.slow
def test_a_run_without_validation_goes_on(load: Load, tmp_path: Path) -> None:
    one, other = load(), load()
    expected = one.fit(TALKS, output_dir=str(tmp_path / "whole"), **PLAIN)

    with pytest.raises(StoppedError):
        load().fit(TALKS, output_dir=str(tmp_path / "parts"), callbacks=[Signalled(5)], **PLAIN)
    found = other.fit(TALKS, output_dir=str(tmp_path / "parts"), **PLAIN)

    require_same((expected, weights(one)), (found, weights(other)), tmp_path)


@pytest.mark.slow
def test_the_seconds_are_those_of_the_whole_run(load: Load, tmp_path: Path) -> None:
    stop(load, tmp_path / "parts", 11, **PLAIN)
    before = load().fit(TALKS, VALID, output_dir=str(tmp_path / "short"), max_steps=1, batch_size=2)

    found, _ = fit(load, tmp_path / "parts", **PLAIN)

    assert found.seconds > before.seconds
    assert found.tokens_per_second * found.seconds == pytest.approx(2 * sum(map(_tokens(load()), TALKS)))


def _tokens(model: ConversationModel) -> Callable[[list[str]], int]:
    return lambda talk: len(model.tokenizer(talk)["input_ids"])


# Checkpoints


def test_a_checkpoint_is_a_model_without_pickle(load: Load, tmp_path: Path) -> None:
    stop(load, tmp_path / "parts", 3, **PLAIN)

    folder = tmp_path / "parts" / "checkpoint-3"
    assert {path.suffix for path in folder.rglob("*") if path.is_file()} <= {".safetensors", ".json", ".jinja", ".md"}
    _, trained = fit(load, None, max_steps=3, batch_size=2)
    loaded = ConversationModel.from_pretrained(folder, device="cpu")
    assert loaded.generate(["Hello"], max_new_tokens=2, min_new_tokens=2).response_tokens == [2]
    assert set(weights(loaded)) == set(trained)


@pytest.mark.slow
def test_the_newest_checkpoints_stay(load: Load, tmp_path: Path) -> None:
    fit(load, tmp_path / "two", save_steps=2, **PLAIN)
    fit(load, tmp_path / "three", save_steps=2, save_total_limit=3, **PLAIN)
    fit(load, tmp_path / "all", save_steps=2, save_total_limit=0, **PLAIN)

    def steps(name: str) -> list[int]:
        return sorted(int(path.name[11:]) for path in (tmp_path / name).glob("checkpoint-*"))

    assert steps("two") == [10, 12]
    assert steps("three") == [8, 10, 12]
    assert steps("all") == [2, 4, 6, 8, 10, 12]


class Watch(TrainerCallback):
    """Lists the checkpoints that there are at the end of each update."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.seen: list[set[str]] = []

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seen.append({path.name for path in self._folder.iterdir() if path.is_dir()})


@pytest.mark.slow
def test_checkpoints_made_by_the_clock_go_when_the_run_has_ended(load: Load, tmp_path: Path) -> None:
    watch = Watch(tmp_path / "run")

    fit(load, tmp_path / "run", watch, save_minutes=1e-9, save_steps=5, save_total_limit=3, **PLAIN)

    assert watch.seen[0] == {"checkpoint-1"}
    assert watch.seen[-1] == {"checkpoint-5", "checkpoint-10", "checkpoint-11"}
    assert {path.name for path in (tmp_path / "run").iterdir() if path.is_dir()} == {"checkpoint-5", "checkpoint-10"}


def test_no_clock_makes_no_checkpoints(load: Load, tmp_path: Path) -> None:
    watch = Watch(tmp_path / "run")

    fit(load, tmp_path / "run", watch, save_minutes=0, **PLAIN)

    assert watch.seen == []


@pytest.mark.slow
def test_a_damaged_checkpoint_is_named_and_passed_over(
    load: Load, whole: Callable[..., Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    expected = whole(**PLAIN)
    for step in (4, 8):
        stop(load, tmp_path / "parts", step, **PLAIN)
    damaged = tmp_path / "parts" / "checkpoint-8" / "training_state.safetensors"
    content = bytearray(damaged.read_bytes())
    content[-1] ^= 1
    damaged.write_bytes(content)

    found = fit(load, tmp_path / "parts", **PLAIN)

    reason = "which cannot be used: training_state.safetensors has another hash"
    assert f"skipping {damaged.parent}, {reason}" in caplog.text
    require_same(expected, found, tmp_path)


@pytest.mark.slow
def test_a_full_disk_leaves_the_earlier_checkpoint_to_go_on_from(
    load: Load, whole: Callable[..., Any], tmp_path: Path
) -> None:
    expected = whole(**PLAIN)
    place = tmp_path / "parts"
    stop(load, place, 4, **PLAIN)
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}

    with (
        pytest.raises(SaveError, match=r"checkpoint-5 cannot be written: .*large.*resume from .*checkpoint-4$"),
        no_file_larger_than(100_000),
    ):
        fit(load, place, save_minutes=1e-9, **PLAIN)

    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before
    require_same(expected, fit(load, place, **PLAIN), tmp_path)


# Which run goes on


def test_another_configuration_is_refused_with_the_difference_and_nothing_is_touched(
    load: Load, tmp_path: Path
) -> None:
    place = tmp_path / "parts"
    stop(load, place, 4, **PLAIN)
    before = {path: path.read_bytes() for path in place.rglob("*") if path.is_file()}

    with pytest.raises(ConfigError, match=r"learning_rate: 0.001 there, 0.0005 here; seed: 42 there, 1 here"):
        fit(load, place, **PLAIN | {"learning_rate": 5e-4, "seed": 1})
    with pytest.raises(ConfigError, match=r"training data: 11 windows \w+ there, 10 windows \w+ here"):
        load().fit(TALKS[1:], VALID, output_dir=str(place), learning_rate=1e-3, **PLAIN)
    model = load()
    with torch.no_grad():
        model.hf_model.transformer.ln_f.weight[0] += 1
    with pytest.raises(ConfigError, match=r"first weights: gpt2 \w+ there, gpt2 \w+ here.*must be loaded again"):
        model.fit(TALKS, VALID, output_dir=str(place), learning_rate=1e-3, **PLAIN)

    assert {path: path.read_bytes() for path in place.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_what_changes_nothing_may_differ(load: Load, whole: Callable[..., Any], tmp_path: Path) -> None:
    expected = whole(**PLAIN)

    stop(load, tmp_path / "parts", 4, **PLAIN | {"save_minutes": 5})
    found = fit(load, tmp_path / "parts", save_steps=100, save_total_limit=1, resume=True, **PLAIN)

    require_same(expected, found, tmp_path)


@pytest.mark.slow
def test_a_run_may_begin_anew(load: Load, whole: Callable[..., Any], tmp_path: Path) -> None:
    options = PLAIN | {"seed": 5}
    expected = whole(**options)
    stop(load, tmp_path / "parts", 4, **PLAIN)

    found = fit(load, tmp_path / "parts", resume=False, **options)

    require_same(expected, found, tmp_path)
    assert not list((tmp_path / "parts").glob("checkpoint-*"))


@pytest.mark.slow
def test_a_run_that_has_ended_begins_anew(load: Load, whole: Callable[..., Any], tmp_path: Path) -> None:
    fit(load, tmp_path / "parts", save_steps=2, **PLAIN | {"seed": 5})

    found = fit(load, tmp_path / "parts", **PLAIN)

    require_same(whole(**PLAIN), found, tmp_path)
    assert not list((tmp_path / "parts").glob("checkpoint-*"))


def test_to_go_on_there_must_be_a_run(load: Load, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="new holds no unfinished run"):
        fit(load, tmp_path / "new", resume=True, **PLAIN)
    fit(load, tmp_path / "ended", **PLAIN)
    with pytest.raises(ConfigError, match="ended holds no unfinished run"):
        fit(load, tmp_path / "ended", resume=True, **PLAIN)


def test_what_killed_processes_left_is_removed(load: Load, tmp_path: Path) -> None:
    left = tmp_path / "run" / ".convmodel-abc" / "new"
    left.mkdir(parents=True)
    (left / "model.safetensors").write_bytes(b"half")

    fit(load, tmp_path / "run", **PLAIN)

    assert not list((tmp_path / "run").glob(".convmodel-*"))


def test_a_precision_that_auto_no_longer_means_is_named(
    load: Load, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stop(load, tmp_path, 3, **PLAIN)

    monkeypatch.setattr("convmodel.training.step.runtime.computes_bf16", lambda device: True)
    with pytest.raises(ConfigError, match=r"differs \(precision: fp32 there, bf16 here\)"):
        fit(load, tmp_path, **PLAIN)


@pytest.mark.slow
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="folders are locked on Linux only")
def test_while_another_process_trains_into_the_folder_nothing_of_it_is_judged_or_touched(
    load: Load, tmp_path: Path
) -> None:
    stop(load, tmp_path, 3, **PLAIN)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    other = RunFolder(tmp_path, {})
    other.lock()

    for options in (PLAIN, PLAIN | {"seed": 1}, PLAIN | {"resume": False}):
        with pytest.raises(SaveError, match=f"another process is training into {tmp_path}: wait for it, or end it"):
            fit(load, tmp_path, **options)
    other.close()

    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before
    assert fit(load, tmp_path, **PLAIN)[0].steps == 12


class Ask(TrainerCallback):
    """Asks for a checkpoint where a run validates."""

    def on_evaluate(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        control.should_save = state.global_step == 6


def test_a_checkpoint_that_a_callback_asked_for_stays(load: Load, tmp_path: Path) -> None:
    fit(load, tmp_path, Ask(), **PLAIN)

    assert [path.name for path in tmp_path.glob("checkpoint-*")] == ["checkpoint-6"]


def test_a_run_that_fails_early_leaves_what_an_earlier_one_promised_to_keep(load: Load, tmp_path: Path) -> None:
    fit(load, tmp_path, save_steps=6, **PLAIN)

    with pytest.raises(RuntimeError, match="out of memory"):
        fit(load, tmp_path, Crash(2), save_steps=6, **PLAIN)

    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-12", "checkpoint-6"]
    assert all(damage(path) == "" for path in tmp_path.glob("checkpoint-*"))


@pytest.mark.slow
def test_a_run_that_torchrun_starts_again_goes_on_though_it_began_anew(
    load: Load, whole: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = whole(**PLAIN)
    stop(load, tmp_path / "parts", 5, **PLAIN)

    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    watch = Watch(tmp_path / "parts")
    found = fit(load, tmp_path / "parts", watch, resume=False, save_minutes=1e-9, **PLAIN)

    assert watch.seen[0] == {"checkpoint-5", "checkpoint-6"}
    require_same(expected, found, tmp_path)


# Signals


def test_where_a_run_began_anew_the_same_options_would_do_so_again(load: Load, tmp_path: Path) -> None:
    with pytest.raises(
        StoppedError, match=r"start it again without --overwrite or --no-resume \(resume=False\) to res"
    ):
        fit(load, tmp_path, Signalled(3), resume=False, **PLAIN)


def test_ctrl_c_stops_after_the_update_at_hand(load: Load, tmp_path: Path) -> None:
    with pytest.raises(StoppedError, match=r"Ctrl\+C stopped the run after step 3 of 12; its state is in") as caught:
        fit(load, tmp_path, Signalled(3, signal.SIGINT), **PLAIN)

    assert caught.value.signal == signal.SIGINT
    assert (tmp_path / "checkpoint-3").is_dir()


def test_without_a_folder_nothing_is_saved_and_the_error_says_so(load: Load) -> None:
    model = load()

    with pytest.raises(StoppedError, match="nothing is saved, since there is no output_dir"):
        model.fit(TALKS, VALID, callbacks=[Signalled(3)], **PLAIN)

    assert not model.hf_model.training


def test_signals_are_as_they_were_after_a_run(load: Load, tmp_path: Path) -> None:
    numbers = (signal.SIGTERM, signal.SIGINT)
    before = [signal.getsignal(number) for number in numbers]

    fit(load, None, max_steps=1)
    ended = [signal.getsignal(number) for number in numbers]
    stop(load, tmp_path, 2, **PLAIN)

    assert ended == before
    assert [signal.getsignal(number) for number in numbers] == before
