"""`convmodel compare` as a user meets it."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., int]
ARGUMENTS = ("compare", "model", "gpt2", "--data", "test.jsonl", "--max-new-tokens", "4", "--seed", "1")


@pytest.mark.slow
def test_votes_are_counted_and_kept(
    run: Run, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("1\nx\n2\nq\n"))

    assert run(*ARGUMENTS, "--json") == 0

    out, err = capfd.readouterr()
    found = json.loads(out)
    votes = [json.loads(line) for line in Path("votes.jsonl").read_text(encoding="utf-8").splitlines()]
    assert found["wins"] == sum(vote.get("model") == "gpt2" for vote in votes)
    for vote in votes:
        models = vote.get("models") or [vote["model"], vote["rejected_model"]]
        assert sorted(models) == ["gpt2", "model"]
        assert (vote["kind"], vote["context"][-1]["role"] != vote["responder"]) == ("vote", True)
    assert found["wins"] + found["losses"] + found["neither"] == len(votes) >= 2
    assert "1: " in err
    asked = err.split("which is better?")[0]
    assert "gpt2 " not in asked.partition("1 of ")[2]  # blind


@pytest.mark.slow
def test_what_was_judged_before_is_not_asked_again(
    run: Run, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("1\n" * 20))
    assert run(*ARGUMENTS) == 0
    first = capfd.readouterr().out
    votes = Path("votes.jsonl").read_bytes()

    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    assert run(*ARGUMENTS) == 0

    assert capfd.readouterr().out == first
    assert Path("votes.jsonl").read_bytes() == votes


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ("compare model model --data test.jsonl", "against itself"),
        ("compare model gpt2 --data -", "no standard input"),
        ("compare model gpt2 --data test.jsonl --votes train.jsonl", "train.jsonl:1: this is not a vote"),
    ],
)
def test_mistakes_are_told(run: Run, capfd: pytest.CaptureFixture[str], arguments: str, word: str) -> None:
    assert run(*arguments.split()) == 1
    assert word in " ".join(capfd.readouterr().err.split())
