"""Feedback in a file, and votes in memory and in a file."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from convmodel.errors import SaveError
from convmodel.evaluation.votes import Vote, add_vote, read_votes
from convmodel.server.serving import stores
from convmodel.server.serving.stores import FeedbackStore, VoteStore


def vote(winner: str | None) -> Vote:
    return Vote(["Hi"], ["A", "B"], ["x", "y"], winner)


def test_without_a_file_votes_are_kept_in_memory() -> None:
    store = VoteStore()
    store.add(vote("A"))
    assert [each.winner for each in store.add(vote(None))] == ["A", None]


def test_votes_of_an_earlier_server_count(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    add_vote(path, vote("B"))
    store = VoteStore(path)
    assert [each.winner for each in store.add(vote("A"))] == ["B", "A"]
    assert [each.winner for each in store.add(vote("A"))] == ["B", "A", "A"]
    assert [each.winner for each in read_votes(path)] == ["B", "A", "A"]


def test_votes_of_several_threads_all_count(tmp_path: Path) -> None:
    store = VoteStore(tmp_path / "votes.jsonl")
    with ThreadPoolExecutor(8) as pool:
        counts = [len(votes) for votes in pool.map(lambda _: store.add(vote("A")), range(40))]
    assert sorted(counts) == list(range(1, 41))
    assert len(read_votes(tmp_path / "votes.jsonl")) == 40


def test_memory_is_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "MAX_VOTES", 2)
    store = VoteStore()
    for winner in ("A", "A", "B"):
        votes = store.add(vote(winner))
    assert [each.winner for each in votes] == ["A", "B"]


def test_a_broken_file_does_not_blame_the_request(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    path.write_text("not JSON\n", encoding="utf-8")
    store = VoteStore(path)
    with pytest.raises(SaveError, match=":1: "):
        store.add(vote("A"))
    path.unlink()
    assert len(store.add(vote("A"))) == 1


def test_records_of_several_threads_are_whole_lines(tmp_path: Path) -> None:
    store = FeedbackStore(tmp_path / "feedback.jsonl")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: store.add({"number": number, "text": "é" * 5000}), range(40)))
    lines = (tmp_path / "feedback.jsonl").read_text(encoding="utf-8").splitlines()
    assert sorted(json.loads(line)["number"] for line in lines) == list(range(40))


def test_a_file_that_cannot_be_written_is_a_save_error(tmp_path: Path) -> None:
    with pytest.raises(SaveError, match="cannot be written"):
        FeedbackStore(tmp_path).add({})
