"""`convmodel fit` as a user meets it: settings, output folders, and runs that were stopped."""

import json
import logging
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., int]


def test_fit_saves_a_model_that_the_other_commands_use(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    assert (
        run("fit", "train.jsonl", "--valid", "valid.jsonl", "--max-steps", "2", "-m", "gpt2", "--output-dir", "new")
        == 0
    )
    assert run("evaluate", "new", "--data", "test.jsonl") == 0
    assert run("generate", "-m", "new", "Hello", "--max-new-tokens", "3") == 0
    assert "perplexity" in capfd.readouterr().out


def test_fit_gives_json_to_machines(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    run("fit", "train.jsonl", "-m", "gpt2", "--output-dir", "new", "--max-steps", "1", "--json")

    result = json.loads(capfd.readouterr().out)

    assert result["steps"] == 1
    assert result["config"]["output_dir"] == "new"


def test_a_flag_wins_over_the_file_and_the_file_over_the_default(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    Path("fit.toml").write_text('max_steps = 1\nbatch_size = 2\noutput_dir = "new"\n')

    run("fit", "train.jsonl", "-m", "gpt2", "--config", "fit.toml", "--batch-size", "3", "--json")

    config = json.loads(capfd.readouterr().out)["config"]
    assert (config["max_steps"], config["batch_size"], config["output_dir"], config["seed"]) == (1, 3, "new", 42)


def test_several_speakers_can_be_named(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    names = ["--loss-on", "user", "--loss-on", "assistant"]

    run("fit", "train.jsonl", "-m", "gpt2", "--output-dir", "new", "--max-steps", "1", "--json", *names)

    assert json.loads(capfd.readouterr().out)["config"]["loss_on"] == ["user", "assistant"]


def test_a_model_is_replaced_only_when_asked(run: Run) -> None:
    before = Path("model/model.safetensors").read_bytes()

    refused = run("fit", "train.jsonl", "-m", "gpt2", "--max-steps", "1")
    kept = Path("model/model.safetensors").read_bytes()
    done = run("fit", "train.jsonl", "-m", "gpt2", "--max-steps", "1", "--overwrite")

    assert (refused, done) == (1, 0)
    assert kept == before
    assert Path("model/model.safetensors").read_bytes() != before


@pytest.fixture
def stopped(run: Run, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The command of a run that a signal stopped after its first update, in the folder `new`."""
    from convmodel.training.trainer import FitTrainer

    command = ["fit", "train.jsonl", "-m", "gpt2", "--output-dir", "new", "--max-steps", "3"]
    step = FitTrainer.training_step

    def terminated(*arguments: Any, **options: Any) -> Any:
        os.kill(os.getpid(), signal.SIGTERM)
        return step(*arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(FitTrainer, "training_step", terminated)
        assert run(*command) == 143
    return command


def test_a_stopped_run_goes_on_with_the_same_command(
    run: Run, stopped: list[str], capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    assert run(*stopped) == 0

    assert "resuming at step 1 of 3 from new/checkpoint-1" in caplog.messages
    assert Path("new/model.safetensors").exists()
    assert run(*stopped) == 1
    assert "new already holds a model" in capfd.readouterr().err


def test_a_stopped_run_refuses_another_configuration_and_may_begin_anew(
    run: Run, stopped: list[str], capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    capfd.readouterr()

    assert run(*stopped, "--seed", "7") == 1
    assert "(seed: 42 there, 7 here): give the same options" in capfd.readouterr().err
    assert Path("new/checkpoint-1/manifest.json").exists()
    assert run(*stopped, "--seed", "7", "--overwrite", "--resume") == 1
    assert "--overwrite starts from the beginning and --resume resumes" in capfd.readouterr().err

    assert run(*stopped, "--seed", "7", "--no-resume") == 0
    assert run(*stopped, "--seed", "8", "--overwrite") == 0

    assert not [message for message in caplog.messages if message.startswith("going on")]
    assert not Path("new/checkpoint-1").exists()


def test_a_file_of_settings_may_leave_the_folder_to_a_flag(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    Path("fit.toml").write_text("save_steps = 1\nmax_steps = 1\n")

    assert run("fit", "train.jsonl", "-m", "gpt2", "--config", "fit.toml", "--output-dir", "new") == 0

    assert Path("new/checkpoint-1/model.safetensors").exists()
