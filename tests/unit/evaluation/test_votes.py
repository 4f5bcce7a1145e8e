"""Votes: their file, and how often a model wins."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from convmodel.conversation import Conversation
from convmodel.data.judgements.judgement import Judgement
from convmodel.data.judgements.reader import JudgementReader
from convmodel.errors import ConversationError, SaveError
from convmodel.evaluation.votes import Vote, add_vote, count_wins, read_votes
from convmodel.evaluation.wilson import wilson


def vote(winner: str | None, models: tuple[str, str] = ("A", "B")) -> Vote:
    return Vote(Conversation(["Hi"]), list(models), ["x", "🙂"], winner, "2026-01-01T00:00:00+00:00")


def test_votes_come_back_as_they_were_added(tmp_path: Path) -> None:
    votes = [vote("A"), vote(None), vote("B")]
    for each in votes:
        add_vote(tmp_path / "votes.jsonl", each)

    read = [*read_votes(tmp_path / "votes.jsonl")]
    assert [(each.winner, each.at, each.context) for each in read] == [(v.winner, v.at, v.context) for v in votes]
    for each in read:
        assert dict(zip(each.models, each.responses, strict=True)) == {"A": "x", "B": "🙂"}
    assert json.loads((tmp_path / "votes.jsonl").read_text(encoding="utf-8").splitlines()[0]) == {
        "context": [{"role": "user", "content": "Hi"}], "responder": "assistant", "chosen": "x", "rejected": "🙂",
        "kind": "vote", "model": "A", "at": "2026-01-01T00:00:00+00:00", "rejected_model": "B",
    }  # fmt: skip


def test_votes_are_judgements_and_one_for_neither_is_counted(tmp_path: Path) -> None:
    for each in (vote("A"), vote(None), vote("B")):
        add_vote(tmp_path / "votes.jsonl", each)

    reader = JudgementReader(tmp_path / "votes.jsonl")
    assert [(judgement.chosen, judgement.model) for judgement in reader] == [("x", "A"), ("🙂", "B")]
    assert reader.summary.kinds == {"vote": 2}
    assert reader.summary.undecided == 1


def test_a_blank_response_loses_and_is_left_out_of_the_line(tmp_path: Path) -> None:
    context = Conversation(["Hi", "Yes", "Go on"], ["Ann", "Bob", "Ann"], weights=[0, 1, 0])
    add_vote(tmp_path / "votes.jsonl", Vote(context, ["A", "B"], ["", "x"], "B", responder="Cem"))

    [read] = read_votes(tmp_path / "votes.jsonl")
    assert (read.models, read.responses, read.winner, read.responder) == (["B", "A"], ["x", ""], "B", "Cem")
    [judgement] = JudgementReader(tmp_path / "votes.jsonl")
    expected = Conversation(context.turns, context.speakers)
    assert judgement == Judgement(expected, "Cem", "x", kind="vote", model="B")


def test_votes_of_earlier_versions_and_other_judgements_are_read(tmp_path: Path) -> None:
    old = {"context": ["Hi"], "models": ["A", "B"], "responses": ["x", "y"], "at": ""}
    thumb = Judgement(Conversation(["Hi"]), "assistant", "x", kind="thumb").to_dict()
    lines = [old | {"winner": "B"}, old | {"winner": None}, thumb]
    (tmp_path / "votes.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))

    assert [*read_votes(tmp_path / "votes.jsonl")] == [
        Vote(Conversation(["Hi"]), ["A", "B"], ["x", "y"], winner, responder="assistant") for winner in ("B", None)
    ]


@pytest.mark.parametrize("winner", ["A", None])
def test_a_vote_between_versions_is_marked_and_counts_as_others(tmp_path: Path, winner: str | None) -> None:
    for each in (vote(winner), replace(vote(winner), comparison=True)):
        add_vote(tmp_path / "votes.jsonl", each)

    lines = [json.loads(line) for line in (tmp_path / "votes.jsonl").read_text(encoding="utf-8").splitlines()]
    assert lines[1] == lines[0] | {"comparison": True}
    read = [*read_votes(tmp_path / "votes.jsonl")]
    assert [each.comparison for each in read] == [False, True]
    wins = count_wins(read, "A", "B")
    assert (wins.losses, wins.neither) == ((2, 0) if winner else (0, 2))


def test_no_file_has_no_votes(tmp_path: Path) -> None:
    assert [*read_votes(tmp_path / "votes.jsonl")] == []


@pytest.mark.parametrize(
    "line", ["[]", "none", '{"winner": "A"}', json.dumps({"context": [], "models": ["A", "B"], "responses": ["", ""],
                                                      "winner": "C"}),
             json.dumps({"context": ["Hi"], "chosen": "a", "kind": "vote", "model": "A"}),
             json.dumps({"context": ["Hi"], "tie": ["a", "b"], "kind": "vote", "models": ["A"]})]
)  # fmt: skip
def test_what_is_no_vote_is_told_with_its_place(tmp_path: Path, line: str) -> None:
    path = tmp_path / "votes.jsonl"
    add_vote(path, vote("A"))
    path.write_text(path.read_text(encoding="utf-8") + line + "\n", encoding="utf-8")

    with pytest.raises(ConversationError, match=r"votes.jsonl:2: this is not a vote"):
        [*read_votes(path)]


def test_half_lines_are_skipped_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "votes.jsonl"
    add_vote(path, vote("A"))
    line = path.read_bytes()
    halves = [line[:20], line[: line.index("🙂".encode()) + 2], line[:-2]]
    for half in halves:
        path.write_bytes(path.read_bytes() + half)
        add_vote(path, vote("B"))

    assert [each.winner for each in read_votes(path)] == ["A", "B", "B", "B"]
    assert "votes.jsonl: 3 half lines, which interrupted writes left, are skipped" in caplog.text


def test_a_file_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    with pytest.raises(SaveError, match="choose another --votes"):
        add_vote(tmp_path, vote("A"))


def test_wins_of_one_pair_whatever_its_order() -> None:
    votes = [vote("B"), vote("B", ("B", "A")), vote("A"), vote(None), vote("B", ("B", "C"))]

    found = count_wins(votes, "A", "B")

    assert (found.wins, found.losses, found.neither) == (2, 1, 1)
    assert found.rate == pytest.approx(2 / 3)
    assert (found.low, found.high) == wilson(2, 3)
    assert math.isnan(count_wins([], "A", "B").rate)


@pytest.mark.parametrize(
    ("wins", "total", "low", "high"),
    # p +- z sqrt(p q / n + z^2 / 4 n^2), after the middle is moved: by hand for z = 1.959964
    [(5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0), (0, 10, 0.0, 0.2775), (60, 100, 0.5020, 0.6906)],
)
def test_wilsons_interval(wins: int, total: int, low: float, high: float) -> None:
    assert wilson(wins, total) == pytest.approx((low, high), abs=1e-4)
