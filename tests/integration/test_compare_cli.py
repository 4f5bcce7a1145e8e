"""`convmodel compare` as a user meets it."""

import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest

from convmodel.cli import compare
from convmodel.conversation import Conversation
from convmodel.evaluation.votes import Vote, add_vote

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


def pairs_of(*responses: tuple[str, str]) -> Callable[..., list[Vote]]:
    """Stands for the generation of both models' responses."""
    pairs = [Vote(Conversation([f"Question {n}"]), ("model", "gpt2"), both, None) for n, both in enumerate(responses)]
    return lambda *_, **__: pairs


def test_identical_responses_are_counted_apart(
    run: Run, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    made = pairs_of(("Yes", "Yes "), ("No", "Never"), ("Hi", "Hi"), ("Maybe", "Perhaps"))
    monkeypatch.setattr(compare, "_generate_pairs", made)
    # As earlier versions wrote them.
    add_vote("votes.jsonl", made()[0])
    monkeypatch.setattr("sys.stdin", io.StringIO("0\nq\n"))

    assert run(*ARGUMENTS) == 0

    out, err = capfd.readouterr()
    assert "1 of 2" in err
    assert "of 4" not in err
    assert out == "no votes for either model, 1 for neither, 2 identical, not shown\n"
    assert len(Path("votes.jsonl").read_text(encoding="utf-8").splitlines()) == 2

    monkeypatch.setattr("sys.stdin", io.StringIO("q\n"))
    assert run(*ARGUMENTS, "--json") == 0
    result = json.loads(capfd.readouterr().out)
    assert [result[name] for name in ("wins", "losses", "neither", "identical", "left")] == [0, 0, 1, 2, 1]


@pytest.mark.parametrize(
    ("number", "fix"),
    [("3", "raise --number, or give more conversations in --data"), ("20", "give more conversations in --data")],
)
def test_where_nothing_is_left_the_summary_says_what_helps(
    run: Run, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, number: str, fix: str
) -> None:
    monkeypatch.setattr(compare, "_generate_pairs", pairs_of(("Yes", "Yes"), ("No", "Never"), ("Maybe", "Perhaps")))
    monkeypatch.setattr("sys.stdin", io.StringIO("1\nq\n"))
    assert run(*ARGUMENTS, "-n", number) == 0
    assert "; no significant difference yet\n" in capfd.readouterr().out

    monkeypatch.setattr("sys.stdin", io.StringIO("0\n"))
    assert run(*ARGUMENTS, "-n", number) == 0
    assert f"no significant difference, and nothing is left to vote on: {fix}\n" in capfd.readouterr().out


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


def test_the_layout_of_a_base_model_can_be_chosen(run: Run, capfd: pytest.CaptureFixture[str]) -> None:
    assert run("compare", "gpt2", "model", "--data", "test.jsonl", "--layout", "template") == 1

    assert "has no chat template" in capfd.readouterr().err
