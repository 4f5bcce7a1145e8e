"""The command line as a whole: help, output streams, errors and exit codes."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from convmodel.cli.main import app, main

Run = Callable[..., int]


def test_results_go_to_standard_output_and_the_rest_to_standard_error(
    run: Run, capfd: pytest.CaptureFixture[str]
) -> None:
    run("generate", "Hello", "How are you")

    out, err = capfd.readouterr()

    assert out == "Good thank you\n"
    assert "Good thank you" not in err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["evaluate", "/nowhere", "--data", "test.jsonl"], "no folder /nowhere"),
        (["generate", "Hello", "-m", "there-is-none"], "there is no folder there-is-none"),
        (["evaluate", "model", "--data", "nowhere.jsonl"], "no file nowhere.jsonl"),
        (["fit", "nowhere.jsonl", "-m", "gpt2", "--output-dir", "new"], "no file nowhere.jsonl"),
        (["fit", "train.jsonl", "--batch-size", "0"], "batch_size is 0"),
        (["fit", "train.jsonl", "--config", "nowhere.toml"], "no file nowhere.toml"),
        (["fit", "broken.jsonl", "-m", "gpt2", "--output-dir", "new"], "broken.jsonl:2:"),
        (["fit", "train.jsonl", "-m", "gpt2"], "already holds a model"),
        (["fit", "train.jsonl", "-m", "gpt2", "--output-dir", "train.jsonl"], "train.jsonl cannot be written"),
        (["generate", "Hello", "-o", "penalty_alpha=0.6"], "penalty_alpha"),
        (["generate", "Hello", "-o", "wrong"], "NAME=VALUE"),
        (["generate", " "], "turn 1 is empty"),
        (["demo", "--output-dir", "."], "holds something else"),
        (["demo", "--output-dir", "model"], "already holds a model"),
        (["demo", "--output-dir", "train.jsonl"], "it is a file"),
        (["fit", "train.jsonl", "-m", "gpt2", "--output-dir", "."], "holds something else"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_error_is_one_line_and_exit_code_1(
    run: Run, capfd: pytest.CaptureFixture[str], arguments: list[str], said: str
) -> None:
    Path("broken.jsonl").write_text('["Hi", "Hello"]\n["Hi",\n')

    code = run(*arguments)

    out, err = capfd.readouterr()
    last = err.strip().splitlines()[-1]
    assert code == 1
    assert out == ""
    assert "Traceback" not in err
    assert last.startswith("convmodel: ")
    assert said in last


def test_wrong_usage_is_exit_code_2(run: Run) -> None:
    assert run("evaluate") == 2
    assert run("fit", "train.jsonl", "--no-such-flag") == 2


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        ([], "convmodel demo"),
        (["tokenizer"], "train"),
        (["caht"], "Did you mean 'chat'?"),
        (["tokenizer", "trian"], "Did you mean 'train'?"),
        (["generate", "Hi", "--tempature", "2"], "--temperature"),
        (["evaluate", "model"], "Missing option '--data'"),
        (["fit"], "Missing argument 'TRAIN'"),
    ],
)
def test_wrong_usage_is_answered_with_a_hint(arguments: list[str], hint: str) -> None:
    result = CliRunner(env={"COLUMNS": "200", "TERM": "dumb"}).invoke(app, arguments)

    assert result.exit_code == 2
    assert hint in result.output


def test_every_command_explains_itself() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]

    for name, command in commands.items():
        subcommands = getattr(command, "commands", {name: command}).values()
        for subcommand in subcommands:
            summary = subcommand.help.partition("\n")[0]
            assert summary.endswith("."), summary
            assert all(getattr(parameter, "help", None) for parameter in subcommand.params), name


def test_debug_shows_the_traceback(reader_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["convmodel", "evaluate", "/nowhere", "--data", "test.jsonl", "--debug"])
    with pytest.raises(OSError, match="no folder /nowhere"):
        main()
