"""`convmodel generate`: responses to arguments, and `--input`, which resumes after every kill with the same file."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import forking
import pytest

from convmodel import ConversationModel
from convmodel.generation.batched import CONTEXTS_AT_ONCE

Run = Callable[..., int]

CONTEXTS = 4 * CONTEXTS_AT_ONCE + 7

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def start(reader_folder: Path) -> Callable[[str], forking.Process]:
    """Starts the command in a folder with many contexts; its output goes where it is told."""
    lines = [json.dumps([f"Hello, I am number {n}" + ", and so on" * (n * 7 % 9)]) for n in range(CONTEXTS)]
    lines[150] = "[]"
    (reader_folder / "contexts.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    options = ["--model", "model", "--max-new-tokens", "12", "--temperature", "2", "--seed", "3"]

    def start(output: str) -> forking.Process:
        line = ["-m", "convmodel", "generate", "--input", "contexts.jsonl", "-o", output, *options]
        return forking.start(line, env=os.environ | {"OMP_NUM_THREADS": "1"})

    return start


@pytest.mark.long
def test_killed_again_and_again_it_writes_the_same_file(
    start: Callable[[str], forking.Process], reader_folder: Path
) -> None:
    undisturbed = start("undisturbed.jsonl")
    out, err = undisturbed.communicate(timeout=200)
    assert (undisturbed.returncode, out) == (0, "")
    assert f"undisturbed.jsonl: {CONTEXTS} contexts" in err
    assert "1 contexts failed, the first with: contexts.jsonl:151: " in err
    said = reader_folder / "said.jsonl"

    for number in range(3):
        before = said.stat().st_size if said.exists() else 0
        running = start("said.jsonl")
        while running.poll() is None and not (said.exists() and said.stat().st_size > before):
            time.sleep(0.001)
        time.sleep(0.05 * number)
        running.send_signal(signal.SIGKILL)
        running.communicate()
        assert running.returncode == -signal.SIGKILL
    assert CONTEXTS_AT_ONCE <= len(said.read_bytes().splitlines()) < CONTEXTS
    last = start("said.jsonl")
    _, err = last.communicate(timeout=200)

    assert (last.returncode, "from an earlier run" in err) == (0, True), err
    assert said.read_bytes() == (reader_folder / "undisturbed.jsonl").read_bytes()
    assert not (reader_folder / "said.jsonl.unfinished").exists()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ("", "give turns"),
        ("Hello --output said.jsonl", "--input FILE with --output FILE"),
        ("--input test.jsonl", "--input takes --output"),
        ("--input test.jsonl -o said.jsonl -o other.jsonl", "--input takes --output once"),
        ("Hello --input test.jsonl --output said.jsonl", "neither turns nor --json"),
        ("--input nowhere.jsonl --output said.jsonl", "nowhere.jsonl"),
        ("--input test.jsonl --output test.jsonl --overwrite", "test.jsonl holds the contexts"),
        ("--input test.jsonl --output valid.jsonl", "valid.jsonl already exists"),
    ],
)
def test_mistakes_are_told(run: Run, capfd: pytest.CaptureFixture[str], arguments: str, word: str) -> None:
    assert run("generate", *arguments.split()) == 1
    assert word in " ".join(capfd.readouterr().err.split())


def test_generate_gives_json_to_machines(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    run("generate", "Hello", "How are you", "--json", "-n", "2", "-o", "num_beams=2", "--option", "do_sample=false")

    result = json.loads(capfd.readouterr().out)

    assert result["responses"][0] == "Good thank you"
    assert len(result["responses"]) == 2
    assert result["finish_reasons"][0] == "stop"
    assert result["prompt_tokens"] == 7


@pytest.mark.slow
def test_without_a_model_of_ones_own_the_built_in_one_answers(
    run: Run,
    capfd: pytest.CaptureFixture[str],
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    built_in = ConversationModel.from_pretrained("builtin:chitchat").generate(["Hello"]).responses[0]
    assert run("generate", "Hello") == 0
    own = capfd.readouterr().out
    monkeypatch.chdir(tmp_path_factory.mktemp("project"))
    Path("model").mkdir()
    Path("model/net.py").touch()  # a folder of this name that is no model

    assert run("generate", "Hello") == 0

    assert capfd.readouterr().out == f"{built_in}\n" != own


@pytest.mark.slow
def test_a_responder_who_has_not_spoken_is_told(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("generate", "Hello", "How are you", "--reply-as", "Ann") == 0
    assert "Ann has not spoken yet" in capfd.readouterr().err
    assert run("generate", "Hello", "--reply-as", "Ann") == 0
    assert run("generate", "Hello", "How are you", "--reply-as", "user") == 0
    assert "has not spoken" not in capfd.readouterr().err
