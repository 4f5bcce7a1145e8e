"""`convmodel fit` as a user meets it: settings, output folders, and runs that were stopped."""

import json
import logging
import os
import re
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

Run = Callable[..., int]


@pytest.mark.slow
def test_fit_saves_a_model_that_the_other_commands_use(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    assert (
        run("fit", "train.jsonl", "--valid", "valid.jsonl", "--max-steps", "2", "-m", "gpt2", "--output-dir", "new")
        == 0
    )
    assert run("evaluate", "new", "--data", "test.jsonl") == 0
    assert run("generate", "-m", "new", "Hello", "--max-new-tokens", "3") == 0
    assert "perplexity" in capfd.readouterr().out


@pytest.mark.slow
def test_fit_gives_json_to_machines(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    run("fit", "train.jsonl", "-m", "gpt2", "--output-dir", "new", "--max-steps", "1", "--json")

    result = json.loads(capfd.readouterr().out)

    assert result["steps"] == 1
    assert result["config"]["output_dir"] == "new"


@pytest.mark.slow
def test_a_flag_wins_over_the_file_and_the_file_over_the_default(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    Path("fit.toml").write_text('max_steps = 1\nbatch_size = 2\noutput_dir = "new"\n')

    run("fit", "train.jsonl", "-m", "gpt2", "--config", "fit.toml", "--batch-size", "3", "--json")

    config = json.loads(capfd.readouterr().out)["config"]
    assert (config["max_steps"], config["batch_size"], config["output_dir"], config["seed"]) == (1, 3, "new", 42)


@pytest.mark.slow
def test_a_model_that_training_does_not_improve_is_kept_as_it_was(
    run: Run, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "convmodel")
    options = ["--valid", "valid.jsonl", "-m", "gpt2", "--output-dir", "new", "--early-stopping-patience", "1"]

    assert run("fit", "train.jsonl", *options, "--epochs", "auto", "--eval-steps", "1", "--learning-rate", "3") == 0

    shown = capfd.readouterr()
    row = re.search(r"validation perplexity +([\d.]+) → ([\d.]+), at step 0", shown.out)
    assert row is not None
    before, after = row.groups()
    assert before == after
    text = " ".join(shown.err.split())
    assert "epochs auto: at most 18 steps, 54 or 126 if validation still improves (batch_size " in caplog.text
    assert "no validation since step 0 was better (early_stopping_patience 1)" in caplog.text
    assert f"No better than before: validation perplexity was {float(before):,.0f} before and at best" in text
    assert "The model was kept as it was" in text


def test_auto_is_refused_where_it_cannot_work(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    plain = ["fit", "train.jsonl", "-m", "gpt2", "--output-dir", "new"]
    for more, problem in (
        (["--epochs", "auto"], "epochs is auto, which ends a run when validation stops improving: pass valid too"),
        (["--epochs", "auto", "--objective", "kto"], "epochs is auto, which is not for objective kto: give a number"),
    ):
        assert run(*plain, *more) == 1
        assert problem in " ".join(capfd.readouterr().err.split())
    assert run(*plain, "--epochs", "many") == 2
    assert "'many' is neither a number nor auto" in " ".join(capfd.readouterr().err.split())


@pytest.mark.slow
def test_several_speakers_can_be_named(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    names = ["--loss-on", "user", "--loss-on", "assistant"]

    run("fit", "train.jsonl", "-m", "gpt2", "--output-dir", "new", "--max-steps", "1", "--json", *names)

    assert json.loads(capfd.readouterr().out)["config"]["loss_on"] == ["user", "assistant"]


@pytest.mark.slow
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


@pytest.mark.long
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


@pytest.mark.slow
def test_a_file_of_settings_may_leave_the_folder_to_a_flag(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    Path("fit.toml").write_text("save_steps = 1\nmax_steps = 1\n")

    assert run("fit", "train.jsonl", "-m", "gpt2", "--config", "fit.toml", "--output-dir", "new") == 0

    assert Path("new/checkpoint-1/model.safetensors").exists()
