"""`convmodel doctor` on judgements as a user meets it, with and without a model."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from convmodel import ConversationModel
from convmodel.cli import doctor as doctor_module
from convmodel.cli.doctor import command
from convmodel.errors import ConfigError, ConversationError, MissingExtraError

Doctor = Callable[..., Result]

ROWS: list[dict[str, Any]] = [
    {"context": ["Hello"], "chosen": f"Good day number {number}", "rejected": f"Go {number}", "kind": "edit"}
    for number in range(19)
]
UP = {"context": ["Bye"], "chosen": "See you", "kind": "thumb"}


@pytest.fixture
def doctor(served_models: dict[str, ConversationModel], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Doctor:
    """Runs the command in an empty folder with a model called gpt2, which is loaded already."""
    monkeypatch.setattr(doctor_module, "load_model", lambda name, **chosen: {"gpt2": served_models["tiny"]}[name])
    monkeypatch.chdir(tmp_path)
    app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode="markdown")
    app.command()(command)
    return lambda *arguments: CliRunner().invoke(app, arguments, catch_exceptions=False)


def write(path: str, *rows: Any) -> str:
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def test_judgements_are_recognised_without_a_model(doctor: Doctor) -> None:
    result = doctor(write("feedback.jsonl", *ROWS, UP))

    assert result.exit_code == 0
    assert "20 judgements (1 thumb, 19 edit): 19 pairs, 1 liked only" in " ".join(result.stdout.split())
    assert "! warn  length of responses" in result.stdout
    assert "→ add pairs whose better response is the shorter one" in " ".join(result.stdout.split())
    assert "as the model sees it" not in result.stdout


@pytest.mark.slow
def test_with_a_model_one_is_shown_as_tokens(doctor: Doctor) -> None:
    result = doctor("gpt2", write("feedback.jsonl", *ROWS, UP), "--conversation", "20")

    assert result.exit_code == 0
    assert "judgement 20, as the model sees it" in result.stdout
    assert "See ·you" in result.stdout
    assert "all of 20 examined fit in" in " ".join(result.stdout.split())
    with pytest.raises(ConfigError, match="conversation is 21, but there are only 20 judgements"):
        doctor("gpt2", "feedback.jsonl", "--conversation", "21")


def test_machines_get_one_object_and_a_failure_its_exit_code(doctor: Doctor) -> None:
    write("valid.jsonl", ["Bye", "See you", "Yes"])

    result = doctor("gpt2", write("feedback.jsonl", UP), "--valid", "valid.jsonl", "--json")

    found = json.loads(result.stdout)
    assert set(found) == {"judgements", "checks", "statistics", "estimate"}
    assert found["estimate"]["steps"] == 6  # as `improve` trains, and not `fit`
    assert found["judgements"]["kinds"] == {"thumb": 1}
    assert found["statistics"]["conversations"] == 1
    checks = {check["name"]: check["status"] for check in found["checks"]}
    assert (checks["judgements"], checks["both ways"], checks["leakage"]) == ("warn", "warn", "fail")
    assert result.exit_code == 1
    alone = json.loads(doctor("feedback.jsonl", "--json").stdout)
    assert (alone["statistics"], alone["estimate"]) == (None, None)


def test_the_run_is_that_of_the_objective(doctor: Doctor) -> None:
    data = write("feedback.jsonl", *ROWS, UP)

    result = doctor("gpt2", data, "--objective", "dpo", "--epochs", "1", "--batch-size", "4")

    said = " ".join(result.stdout.split())
    assert "! warn objective dpo can use 19 of 20: the others have only one response" in said
    assert "time and memory estimate steps 5 " in said
    assert "time and memory" not in doctor("gpt2", data, "--no-estimate").stdout
    with pytest.raises(ConfigError, match="objective kto learns from judgements: DATA has conversations"):
        doctor("gpt2", write("talks.jsonl", ["Hi", "Hello"]), "--objective", "kto")


def test_a_report_is_written(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    result = doctor("gpt2", write("feedback.jsonl", *ROWS, UP), "--report", "report.html")

    page = Path("report.html").read_text(encoding="utf-8")
    assert "wrote the report to report.html" in result.stderr
    assert "feedback.jsonl, judgements" in page
    assert "contradictions" in page
    with pytest.raises(
        ConfigError, match="--report shows tokens, which needs a model: convmodel doctor MODEL feedback"
    ):
        doctor("feedback.jsonl", "--report", "report.html")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match="a report's pictures need matplotlib"):
        doctor("nowhere", "feedback.jsonl", "--report", "report.html")


def test_earlier_lines_and_half_ones_are_read(doctor: Doctor) -> None:
    said = [{"role": "user", "content": "Hi", "weight": 0}, {"role": "assistant", "content": "Go", "weight": 0}]
    path = write("feedback.jsonl", {"messages": said, "model": "m", "rating": "down", "at": ""})
    Path(path).write_text(Path(path).read_text(encoding="utf-8") + '{"messages": [{"ro', encoding="utf-8")

    result = doctor(path)

    assert "1 judgements (1 thumb): 1 disliked only" in result.stdout
    assert "1 half lines of a file that is being written" in " ".join(result.stdout.split())


def test_bad_lines_and_other_formats_are_errors(doctor: Doctor) -> None:
    path = write("feedback.jsonl", UP, UP | {"kind": "star"})

    with pytest.raises(ConversationError, match=r"^feedback.jsonl:2: kind is 'star'"):
        doctor(path)
    assert doctor(path, "--on-error", "skip").exit_code == 0
    with pytest.raises(ConversationError, match="of the shape judgements, not messages: leave --format out"):
        doctor("gpt2", path, "--format", "messages")
    with pytest.raises(ConversationError, match=r"talks.jsonl:1: a conversation \(turns\) is not a judgement"):
        doctor(write("talks.jsonl", ["Hi", "Hello"]), "--format", "judgements")
