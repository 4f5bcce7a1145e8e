"""`convmodel generate --input`: the real command, killed again and again, writes the file of an undisturbed one."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from convmodel.generation.batched import TOGETHER

CONTEXTS = 4 * TOGETHER + 7

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def start(reader_folder: Path) -> Callable[[str], "subprocess.Popen[str]"]:
    """Starts the command in a folder with many contexts; its output goes where it is told."""
    lines = [json.dumps([f"Hello, I am number {n}" + ", and so on" * (n * 7 % 9)]) for n in range(CONTEXTS)]
    lines[150] = "[]"
    (reader_folder / "contexts.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    options = ["--model", "model", "--max-new-tokens", "12", "--temperature", "2", "--seed", "3"]

    def start(output: str) -> "subprocess.Popen[str]":
        line = [
            sys.executable,
            "-m",
            "convmodel",
            "generate",
            "--input",
            "contexts.jsonl",
            "--output",
            output,
            *options,
        ]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        return subprocess.Popen(line, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    return start


def test_killed_again_and_again_it_writes_the_same_file(
    start: Callable[[str], "subprocess.Popen[str]"], reader_folder: Path
) -> None:
    undisturbed = start("undisturbed.jsonl")
    out, err = undisturbed.communicate(timeout=200)
    assert (undisturbed.returncode, out) == (0, "")
    assert f"undisturbed.jsonl: {CONTEXTS} contexts" in err
    assert "1 of them have an error in their line, the first: contexts.jsonl:151: " in err
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
    assert TOGETHER <= len(said.read_bytes().splitlines()) < CONTEXTS
    last = start("said.jsonl")
    _, err = last.communicate(timeout=200)

    assert (last.returncode, "there before" in err) == (0, True), err
    assert said.read_bytes() == (reader_folder / "undisturbed.jsonl").read_bytes()
    assert not (reader_folder / "said.jsonl.unfinished").exists()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ("", "give turns"),
        ("Hello --output said.jsonl", "--input FILE with --output FILE"),
        ("--input test.jsonl", "--input takes --output"),
        ("Hello --input test.jsonl --output said.jsonl", "neither turns nor --json"),
        ("--input nowhere.jsonl --output said.jsonl", "nowhere.jsonl"),
        ("--input test.jsonl --output test.jsonl --overwrite", "test.jsonl holds the contexts"),
        ("--input test.jsonl --output valid.jsonl", "valid.jsonl is there already"),
    ],
)
def test_mistakes_are_told(
    run: Callable[..., int], capfd: pytest.CaptureFixture[str], arguments: str, word: str
) -> None:
    assert run("generate", *arguments.split()) == 1
    assert word in " ".join(capfd.readouterr().err.split())
