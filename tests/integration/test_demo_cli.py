"""`convmodel demo`: what it prints, that the printed commands do the same, and that it learns."""

import importlib.util
import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from convmodel.cli import demo
from convmodel.cli.main import app

Run = Callable[..., int]

SHORT = 500  # messages of the export


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> bytes:
    """Shortens the export of the demo."""
    content = b"".join(demo._sample().splitlines(keepends=True)[:SHORT])
    monkeypatch.setattr(demo, "_sample", lambda: content)
    return content


def printed_commands(messages: str) -> list[list[str]]:
    """Returns the commands that introduce the steps, as lists of words without `convmodel`."""
    return [shlex.split(line[2:])[1:] for line in messages.splitlines() if line.startswith("$ ")]


@pytest.mark.long
@pytest.mark.timeout(300)
def test_the_demo_shows_each_step_and_its_command_does_the_same(
    run: Run, capfd: pytest.CaptureFixture[str], short: bytes
) -> None:
    assert run("demo", "--epochs", "0.1", "--output-dir", "shown", "--seed", "5") == 0

    out, err = capfd.readouterr()
    lines = printed_commands(err)
    assert [line[0] for line in lines] == ["import", "doctor", "fit", "evaluate", "chat"]
    assert f"Read {SHORT} messages of Anne and Will in the format whatsapp." in err
    assert "dropped: nothing." in err
    assert "checks pass: separator, vocabulary" in err
    assert "Perplexity fell by" in err
    assert Path("shown", demo.EXPORT).read_bytes() == short

    again = [[word if word.endswith(".txt") else word.replace("shown", "again") for word in line] for line in lines]
    for line in again[:3]:
        assert run(*line) == 0
    for file in ("data/train.jsonl", "data/valid.jsonl", "data/test.jsonl", "model/model.safetensors"):
        assert Path("again", file).read_bytes() == Path("shown", file).read_bytes(), file

    capfd.readouterr()
    assert run(*again[3], "--json") == 0
    models = json.loads(capfd.readouterr().out)["models"]
    table = [row.split()[-2:] for row in out.splitlines()[1:3]]
    for row, name, digits in zip(table, ("perplexity", "bits_per_byte"), (1, 2), strict=True):
        assert row == [f"{model['metrics'][name]['value']:,.{digits}f}" for model in models]

    following = [shlex.split(line)[1:] for line in err.partition("\nNext: ")[2].splitlines()[1:]]
    assert [line[0] for line in following] == ["chat", "serve", "import", "--help"]
    assert following[0][-1] == following[1][-1] == "shown/model"
    Path(following[2][1]).write_bytes(short.replace(b"Will", b"Bob"))
    assert run(*following[2]) == 0


@pytest.mark.long
@pytest.mark.timeout(300)
def test_its_json_has_all_results_and_a_chat_gives_the_same_replies(
    run: Run, capfd: pytest.CaptureFixture[str], short: bytes
) -> None:
    shutil.copytree("model", "demo/model")  # of an earlier demo, in the default folder
    Path("demo", demo.EXPORT).touch()

    assert run("demo", "--epochs", "0.1", "--seed", "5", "--json") == 0

    captured = capfd.readouterr()
    result = json.loads(captured.out)
    assert Path("demo", demo.EXPORT).read_bytes() == short
    assert result["import"]["entries"] == SHORT
    assert {check["name"]: check["status"] for check in result["checks"]}["end of turn"] == "pass"
    commands = [shlex.split(line)[1:] for line in result["commands"]]
    assert [line[0] for line in commands] == ["import", "doctor", "fit", "evaluate", "chat"]
    assert printed_commands(captured.err) == commands[:3]  # as they began
    example, chat = result["responses"][0], commands[-1]
    reply = CliRunner().invoke(app, chat, input=f"/set seed 5\n{example['context']}\n").stdout
    assert " / ".join(reply.strip().splitlines()) == example["after"]


def test_it_replaces_only_a_demo(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    Path("demo/data").mkdir(parents=True)
    Path("demo/data/train.jsonl").write_text("mine")
    Path("other").mkdir()
    Path("other", demo.EXPORT).touch()

    codes = [run("demo"), run("demo", "--output-dir", "other")]

    assert codes == [1, 1]
    errors = capfd.readouterr().err
    assert "demo holds something else: give another --output-dir" in errors
    assert "other already holds a demo: give another --output-dir, or --overwrite to replace it" in errors
    assert Path("demo/data/train.jsonl").read_text() == "mine"


def test_without_accelerate_it_ends_before_it_writes(
    run: Run, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "accelerate" else find_spec(name))

    assert run("demo") == 1
    assert "training needs accelerate (the extra train)" in capfd.readouterr().err
    assert not Path("demo").exists()


@pytest.mark.long
@pytest.mark.timeout(600)
def test_the_demo_halves_perplexity(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    run("demo", "--json")

    result = json.loads(capfd.readouterr().out)

    assert result["after"]["perplexity"] < 0.5 * result["before"]["perplexity"]
    assert [set(response) for response in result["responses"]] == [{"context", "before", "after"}] * 3
    assert all(response["before"] != response["after"] for response in result["responses"])
