"""`convmodel next-turn` as a user meets it."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., int]


@pytest.mark.slow
def test_it_teaches_a_head_which_then_ranks(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("next-turn", "model", "train.jsonl", "--valid", "valid.jsonl") == 0
    out, _ = capfd.readouterr()
    assert "hits@1" in out
    assert "hits@1 by likelihood per token" in out
    assert Path("model/next_turn_head.json").exists()

    assert (
        run("generate", "Hello", "-n", "3", "--temperature", "2", "--seed", "1", "--rerank", "next-turn", "--json") == 0
    )
    scores = json.loads(capfd.readouterr().out)["scores"]
    assert len(scores) == 3
    assert scores == sorted(scores, reverse=True)


@pytest.mark.slow
def test_json_for_machines(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("next-turn", "model", "train.jsonl", "--limit", "3", "--json") == 0

    hits = json.loads(capfd.readouterr().out)["train"]
    assert (hits["conversations"], hits["left_out"]) == (3, 0)
    assert 0 <= hits["head"] <= 1


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ("generate Hello --rerank next-turn -m gpt2", "`convmodel next-turn` makes one"),
        ("generate Hello --rerank best", "rerank is 'best'"),
        ("next-turn model nowhere.jsonl", "nowhere.jsonl"),
        ("next-turn nowhere train.jsonl", "nowhere is not a folder"),
    ],
)
def test_mistakes_are_told(run: Run, capfd: pytest.CaptureFixture[str], arguments: str, word: str) -> None:
    assert run(*arguments.split()) == 1
    assert word in " ".join(capfd.readouterr().err.split())
