"""The command line as a whole: help, output streams, errors and exit codes."""

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from convmodel.cli.fit_options import GROUPS
from convmodel.cli.main import app, main
from convmodel.training.config import FitConfig

Run = Callable[..., int]


@pytest.mark.slow
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
        (["generate", "Hello", "--option", "wrong"], "NAME=VALUE"),
        (["generate", "Hello", "-o", "wrong"], "or --input FILE with --output FILE"),
        (["generate", " "], "turn 1 is empty"),
        (["demo", "--output-dir", "."], "holds something else"),
        (["demo", "--output-dir", "model"], "model holds something else"),
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


def test_help_and_version_have_short_names() -> None:
    runner = CliRunner(env={"COLUMNS": "80"})
    for arguments in (["-h"], ["fit", "-h"], ["tokenizer", "-h"], ["tokenizer", "train", "-h"]):
        result = runner.invoke(app, arguments)
        assert (result.exit_code, "--help" in result.output) == (0, True), arguments
        assert "<bool>" not in result.output  # of a switch, which takes no value
    assert runner.invoke(app, ["-V"]).output == runner.invoke(app, ["--version"]).output


def test_output_has_the_same_short_name_everywhere() -> None:
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    commands |= commands["tokenizer"].commands

    outputs = {
        name: parameter.opts for name in commands for parameter in commands[name].params if "-o" in parameter.opts
    }

    assert outputs == {
        "import": ["--output", "-o"],
        "doctor": ["--report", "-o"],
        "fit": ["--output-dir", "-o"],
        "improve": ["--output-dir", "-o"],
        "plot": ["--output", "-o"],
        "evaluate": ["--report", "-o"],
        "export": ["--output", "-o"],
        "compare": ["--votes", "-o"],
        "generate": ["--output", "-o"],
        "record": ["--output", "-o"],
        "selfchat": ["--output", "-o"],
        "demo": ["--output-dir", "-o"],
        "train": ["--output-dir", "-o"],
    }


@pytest.mark.parametrize("columns", ["80", "100"])
def test_the_settings_of_fit_are_grouped_and_not_cut_off(columns: str) -> None:
    result = CliRunner(env={"COLUMNS": columns}).invoke(app, ["fit", "--help"])

    for title in GROUPS:
        assert f"─ {title} ─" in result.output
    assert "Other settings" not in result.output
    for field in fields(FitConfig):
        assert re.search(rf"--{field.name.replace('_', '-')}[ ,]", result.output), field.name


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 9 bytes"),
        ImportError("libtorch_cpu.so: failed to map segment from shared object"),
        type("PanicException", (BaseException,), {})("memory allocation of 9 bytes failed"),
    ],
)
def test_too_little_memory_is_no_bug(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr("convmodel.cli.main.app", fail)
    monkeypatch.setattr(sys, "argv", ["convmodel", "doctor"])

    with pytest.raises(SystemExit) as caught:
        main()

    err = " ".join(capfd.readouterr().err.split())
    assert caught.value.code == 1
    assert "there is not enough memory (" in err
    assert "close other programs, or use a smaller model, batch or file" in err
    assert "bug" not in err


def test_the_commands_load_without_torch() -> None:
    code = "import sys, convmodel.cli.main; sys.exit('torch' in sys.modules or 'transformers' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
