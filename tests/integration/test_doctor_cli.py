"""`convmodel doctor` as a user meets it: what is shown, what machines get, and the exit code."""

import json
import re
import sys
from collections.abc import Callable
from importlib.resources import files
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
from convmodel.training.config import FitConfig
from convmodel.training.doctor.run_plan import RunPlan

Doctor = Callable[..., Result]


@pytest.fixture(scope="module")
def gpt2(gpt2_folder: Path) -> ConversationModel:
    return ConversationModel.from_pretrained(gpt2_folder)


@pytest.fixture
def doctor(gpt2: ConversationModel, gpt2_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Doctor:
    """Runs the command in a folder with `gpt2`, loaded once, and the beginnings of two files of the sample."""
    load = doctor_module.load_model
    monkeypatch.setattr(
        doctor_module, "load_model", lambda name, **chosen: gpt2 if name == "gpt2" else load(name, **chosen)
    )
    for name in ("train", "valid"):
        lines = (files("convmodel") / f"assets/sample/{name}.jsonl").read_text(encoding="utf-8").splitlines(True)
        (tmp_path / f"{name}.jsonl").write_text("".join(lines[:4]), encoding="utf-8")
    (tmp_path / "gpt2").symlink_to(gpt2_folder)
    monkeypatch.chdir(tmp_path)
    app = typer.Typer(pretty_exceptions_enable=False, rich_markup_mode="markdown")
    app.command()(command)

    def doctor(*arguments: str, environment: dict[str, str] | None = None) -> Result:
        return CliRunner(env=environment).invoke(app, arguments, catch_exceptions=False)

    return doctor


def checks(result: Result) -> dict[str, dict[str, str]]:
    return {check["name"]: check for check in json.loads(result.stdout)["checks"]}


def write(path: str, *talks: Any) -> str:
    Path(path).write_text("".join(json.dumps(talk) + "\n" for talk in talks))
    return path


@pytest.mark.slow
def test_good_data_is_shown_checked_and_estimated(doctor: Doctor) -> None:
    result = doctor("./gpt2", "train.jsonl", "--valid", "valid.jsonl", "--max-steps", "40")  # really loaded

    assert result.exit_code == 0
    assert "conversation 1, as the model sees it" in result.stdout
    assert "<sep> Recently ·I 've ·learned ·about" in result.stdout
    assert "✓ pass  separator" in result.stdout
    assert "✓ pass  leakage" in result.stdout
    assert "✓ pass  memory" in result.stdout
    assert "✗" not in result.stdout
    assert "time and memory estimate" in result.stdout
    assert "tokens per turn" in result.stdout


def test_machines_get_one_object(doctor: Doctor) -> None:
    result = doctor("gpt2", "train.jsonl", "--max-steps", "40", "--warmup-steps", "3", "--json")

    found = json.loads(result.stdout)
    assert result.exit_code == 0
    assert set(found) == {"checks", "estimate", "statistics"}
    assert found["estimate"]["steps"] == 40
    assert found["statistics"]["conversations"] == 4
    assert {check["status"] for check in found["checks"]} == {"pass"}
    assert checks(result)["steps"]["finding"] == "40 steps, 3 of them warm-up"


def test_defaults_are_those_of_fit(doctor: Doctor) -> None:
    found = json.loads(doctor("gpt2", "train.jsonl", "--json", "--no-estimate").stdout)

    windows = int(next(check for check in found["checks"] if check["name"] == "length")["finding"].split()[0])
    plan = RunPlan.of(FitConfig().to_dict(), windows, 128)
    assert next(c for c in found["checks"] if c["name"] == "steps")["finding"].startswith(f"{plan.steps} steps")
    assert found["estimate"] is None
    shown = doctor("--help", environment={"COLUMNS": "200", "TERM": "dumb"}).stdout
    assert "by default 8, and fewer for few windows" in " ".join(shown.split())
    assert f"[default: {FitConfig().gradient_accumulation_steps}]" in shown


def test_a_run_that_may_end_early_is_estimated_at_most(doctor: Doctor) -> None:
    valid = ("train.jsonl", "--valid", "valid.jsonl", "--max-length", "64", "--batch-size", "1")
    wide = {"COLUMNS": "200"}
    opened = doctor("gpt2", *valid, environment=wide)
    given = doctor("gpt2", *valid, "--epochs", "2", "--no-estimate", environment=wide)
    refused = pytest.raises(ConfigError, match=r"epochs is auto, .*: pass valid too")

    assert re.search(r"at most \d+ steps, \d+ of them warm-up in each cycle; cycles end after \d+, \d+", opened.stdout)
    assert re.search(r"steps +at most \d+", opened.stdout)
    assert re.search(r"time +at most about", opened.stdout)
    assert "at most" not in given.stdout
    with refused:
        doctor("gpt2", "train.jsonl", "--epochs", "auto")


FAULTS: list[tuple[str, list[Any], list[str], str]] = [
    ("cut", [["Hi " * 900, "Yes"]], [], "fail"),
    ("cut", [["Hi " * 130, "Yes"]], [], "warn"),
    ("text", [["こんにちは、今日の調子はどうですか。", "市場に行って母にりんごを買いました。"]], [], "warn"),
    ("speakers", [["Is anybody there?", "yes " * 60]], [], "warn"),
    ("speakers", [{"turns": ["Dear diary", "I am back"], "speakers": ["Ann", "Ann"]}], [], "warn"),
    ("supervised", [["Hi", "Hello"], ["Anybody?"]], ["--loss-on", "responses"], "warn"),
    ("used", [["Hi", "Hello"], ["Hi", ""]], ["--on-error", "skip"], "warn"),
    ("steps", [["Hi", "Hello"]], ["--warmup-steps", "50"], "fail"),
    ("steps", [["Hi", "Hello"]], [], "warn"),
    ("duplicates", [["Hi", "Hello"], ["hi", "hello"]], [], "warn"),
    ("leakage", [["Hi", "Hello"]], ["--valid", "same.jsonl"], "fail"),
]


@pytest.mark.parametrize(("name", "talks", "options", "status"), FAULTS, ids=[f"{f[0]} {f[3]}" for f in FAULTS])
def test_a_planted_fault_is_recognised(
    doctor: Doctor, name: str, talks: list[Any], options: list[str], status: str
) -> None:
    write("same.jsonl", *talks)

    result = doctor("gpt2", write("bad.jsonl", *talks), "--json", "--no-estimate", *options)

    assert checks(result)[name]["status"] == status
    assert checks(result)[name]["fix"]
    assert result.exit_code == (1 if "fail" in {check["status"] for check in checks(result).values()} else 0)


def test_a_fault_is_shown_with_its_cure(doctor: Doctor) -> None:
    result = doctor("gpt2", "train.jsonl", "--max-steps", "10", "--warmup-steps", "10", "--no-estimate")

    assert result.exit_code == 1
    assert "✗ fail  steps" in result.stdout
    assert "→ lower warmup_steps" in result.stdout


def test_too_little_memory_is_a_warning(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convmodel.training.doctor.estimate.available_bytes", lambda hf_model: 1 << 20)

    result = doctor("gpt2", "train.jsonl", "--json", "--max-steps", "40")

    assert checks(result)["memory"]["status"] == "warn"
    assert result.exit_code == 0


@pytest.mark.parametrize(
    ("settings", "said"), [("", False), ("lora = true", True), ("[lora]\nr = 4", True), ('optim = "adafactor"', True)]
)
def test_memory_is_said_to_be_that_of_adamw_where_less_is_asked_for(doctor: Doctor, settings: str, said: bool) -> None:
    Path("fit.toml").write_text(settings, encoding="utf-8")

    found = checks(doctor("gpt2", "train.jsonl", "--json", "--config", "fit.toml"))["memory"]["finding"]

    assert ("counted for AdamW on all weights" in found) == said


def test_what_changes_the_estimate_has_a_flag(doctor: Doctor) -> None:
    def activations(*flags: str) -> int:
        found = json.loads(doctor("gpt2", "train.jsonl", "--json", *flags).stdout)
        return int(found["estimate"]["activation_bytes"])

    assert activations("--gradient-checkpointing", "--precision", "fp32") < activations("--precision", "fp32")
    with pytest.raises(ConfigError, match="precision"):
        doctor("gpt2", "train.jsonl", "--precision", "fp8")


def test_text_of_users_never_becomes_markup(doctor: Doctor) -> None:
    talk = {"turns": ["[/bold] [red]x", "[link=http://a]\x1b[31m"], "speakers": ["[/]", "[bold]Bob"]}

    result = doctor("gpt2", write("odd.jsonl", talk), "--no-estimate")

    assert result.exit_code == 0
    assert "[/]  [bold]Bob  supervised" in result.stdout
    assert "\x1b" not in result.stdout
    assert "⟨U+001B⟩" in result.stdout


def test_colours_are_of_speakers(doctor: Doctor) -> None:
    result = doctor("gpt2", write("short.jsonl", ["Hi", "Yes"]), "--no-estimate", environment={"FORCE_COLOR": "1"})

    assert "\x1b[1;4;36mHi\x1b[0m" in result.stdout
    assert "\x1b[1;4;33mYes\x1b[0m" in result.stdout


def test_another_conversation_can_be_shown(doctor: Doctor) -> None:
    result = doctor(
        "gpt2", write("two.jsonl", ["Hi", "Hello"], ["Well?", "Yes"]), "--conversation", "2", "--no-estimate"
    )

    assert "conversation 2" in result.stdout
    assert "Well" in result.stdout
    with pytest.raises(ConfigError, match="conversation is 3, but there are only 2"):
        doctor("gpt2", "two.jsonl", "--conversation", "3")


def test_a_long_conversation_is_shown_in_part(doctor: Doctor) -> None:
    result = doctor("gpt2", write("long.jsonl", ["one two three four five"] * 400), "--no-estimate")

    assert "window 1 of " in result.stdout
    assert "--report FILE writes all of them" in result.stdout
    assert len(result.stdout) < 8000


def test_a_conversation_without_a_supervised_turn_is_told(doctor: Doctor) -> None:
    result = doctor("gpt2", write("two.jsonl", ["Hi"], ["Well?", "Yes"]), "--loss-on", "responses", "--no-estimate")

    assert "none of its turns is supervised" in result.stdout


def test_a_report_is_written(doctor: Doctor) -> None:
    result = doctor(
        "gpt2", "train.jsonl", "--report", "report.html", "--json", "--max-steps", "30", "--batch-size", "1"
    )

    page = Path("report.html").read_text(encoding="utf-8")
    assert json.loads(result.stdout)["estimate"]["steps"] == 30
    assert "wrote the report to report.html" in result.stderr
    assert page.count("<svg") == 3
    assert "train.jsonl, to fine-tune gpt2" in page
    assert "Time and memory estimate" in page


def test_a_report_that_needs_a_missing_package_is_an_error_before_anything_is_read(
    doctor: Doctor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(MissingExtraError, match=r"a report's pictures need matplotlib \(the extra eval\): "):
        doctor("nowhere", "nothing.jsonl", "--report", "report.html")


def test_results_are_printed_before_the_report_is_written(doctor: Doctor, monkeypatch: pytest.MonkeyPatch) -> None:
    printed: list[str] = []
    monkeypatch.setattr("convmodel.cli.doctor.print_examination", lambda *_: printed.append("results"))
    monkeypatch.setattr("convmodel.cli.doctor.write_report", lambda *_: printed.append("report"))

    doctor("gpt2", "train.jsonl", "--report", "report.html", "--no-estimate")

    assert printed == ["results", "report"]


def test_bad_rows_and_settings_are_errors_before_anything_is_loaded(doctor: Doctor) -> None:
    with pytest.raises(ConversationError, match=r"^bad.jsonl:2: turn 2 is empty"):
        doctor("nowhere", write("bad.jsonl", ["Hi"], ["Hi", ""]))
    with pytest.raises(ConfigError, match="batch_size is 0"):
        doctor("nowhere", "train.jsonl", "--batch-size", "0")
    with pytest.raises(ConfigError, match="there is no format"):
        doctor("nowhere", "train.jsonl", "--format", "odd")
    with pytest.raises(ConfigError, match="on_error is 'sometimes'"):
        doctor("nowhere", "train.jsonl", "--on-error", "sometimes")
    with pytest.raises(ConversationError, match="none of 4 conversations has a turn that loss_on='nobody'"):
        doctor("gpt2", "train.jsonl", "--loss-on", "nobody")


def test_several_speakers_can_be_named(doctor: Doctor) -> None:
    options = ["--loss-on", "user", "--loss-on", "assistant", "--no-estimate", "--json"]

    assert "user" in checks(doctor("gpt2", "train.jsonl", *options))["speakers"]["finding"]


@pytest.mark.slow
def test_without_token_types_a_third_speaker_is_an_error(doctor: Doctor) -> None:
    path = write("three.jsonl", {"turns": ["Hi", "Hello", "Hey"], "speakers": ["Ann", "Bob", "Eve"]})
    assert doctor("./gpt2", path, "--no-estimate", "--json").exit_code == 0
    with pytest.raises(ConversationError, match="no token types"):
        doctor("./gpt2", path, "--no-estimate", "--token-types", "off")
