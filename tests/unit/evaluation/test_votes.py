"""Votes: their file, and how often a model wins."""

import json
import math
from pathlib import Path

import pytest

from convmodel.errors import ConversationError, SaveError
from convmodel.evaluation.votes import Vote, add_vote, count_wins, read_votes
from convmodel.evaluation.wilson import wilson


def vote(winner: str | None, models: tuple[str, str] = ("A", "B")) -> Vote:
    return Vote(["Hi"], list(models), ["x", "🙂"], winner, "2026-01-01T00:00:00+00:00")


def test_votes_come_back_as_they_were_added(tmp_path: Path) -> None:
    votes = [vote("A"), vote(None), vote("B")]
    for each in votes:
        add_vote(tmp_path / "votes.jsonl", each)

    assert [*read_votes(tmp_path / "votes.jsonl")] == votes
    assert json.loads((tmp_path / "votes.jsonl").read_text(encoding="utf-8").splitlines()[0])["winner"] == "A"


def test_no_file_has_no_votes(tmp_path: Path) -> None:
    assert [*read_votes(tmp_path / "votes.jsonl")] == []


@pytest.mark.parametrize(
    "line", ["[]", "none", '{"winner": "A"}', json.dumps({"context": [], "models": ["A", "B"], "responses": ["", ""],
                                                      "winner": "C"})]
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
