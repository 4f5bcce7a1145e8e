"""Feedback in a file, and votes in memory and in a file."""

import gc
import json
import os
import traceback
import tracemalloc
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch

from convmodel.conversation import Conversation
from convmodel.errors import ConversationError, SaveError
from convmodel.evaluation.votes import Vote, add_vote, read_votes
from convmodel.server.errors import ApiError
from convmodel.server.serving import stores
from convmodel.server.serving.stores import FeedbackStore, VoteStore


def vote(winner: str | None) -> Vote:
    return Vote(Conversation(["Hi"]), ["A", "B"], ["x", "y"], winner)


def test_without_a_file_votes_are_counted_in_memory() -> None:
    store = VoteStore()
    store.add(vote("A"))
    wins = store.add(vote(None))
    assert (wins.wins, wins.losses, wins.neither) == (0, 1, 1)


def test_votes_of_an_earlier_server_count(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    add_vote(path, vote("B"))
    store = VoteStore(path)
    store.add(vote("A"))
    assert store.add(vote("A")).losses == 2
    assert store.add(vote("A")).wins == 1
    assert [each.winner for each in read_votes(path)] == ["B", "A", "A", "A"]


def test_votes_of_several_threads_all_count(tmp_path: Path) -> None:
    store = VoteStore(tmp_path / "votes.jsonl")
    with ThreadPoolExecutor(8) as pool:
        losses = [wins.losses for wins in pool.map(lambda _: store.add(vote("A")), range(40))]
    assert sorted(losses) == list(range(1, 41))
    assert len([*read_votes(tmp_path / "votes.jsonl")]) == 40


def test_memory_holds_no_texts_and_a_limited_number_of_pairs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "MAX_PAIRS", 2)
    store = VoteStore()
    tracemalloc.start()
    try:
        for number in range(100):
            store.add(Vote(Conversation(["x" * 10**5 + str(number)]), ["A", "B"], ["x", "y"], "A"))
        assert tracemalloc.get_traced_memory()[0] < 10**6
    finally:
        tracemalloc.stop()
    store.add(Vote(Conversation(["Hi"]), ["A", "C"], ["x", "y"], "C"))
    with pytest.raises(ApiError, match="votes on 2 pairs of models already") as refused:
        store.add(Vote(Conversation(["Hi"]), ["B", "C"], ["x", "y"], "C"))
    assert refused.value.status == 507
    assert store.add(Vote(Conversation(["Hi"]), ["C", "A"], ["x", "y"], "C")).losses == 2


def test_files_are_limited(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stores, "MAX_STORED", 1000)
    votes, feedback = VoteStore(tmp_path / "votes.jsonl"), FeedbackStore(tmp_path / "feedback.jsonl")
    for name, add in (("votes", lambda: votes.add(vote("A"))), ("feedback", lambda: feedback.add({"text": "x" * 300}))):
        path = tmp_path / f"{name}.jsonl"
        while not path.exists() or path.stat().st_size < 1000:
            add()
        with pytest.raises(ApiError, match=f"the file of {name} has 0 MiB, its limit: move it away") as refused:
            add()
        assert refused.value.status == 507
        path.unlink()
        add()


def test_a_half_line_is_skipped_and_another_file_refused_at_the_start(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    path.write_text('{"context": ["x"], "models": ["a","b"], "respon', encoding="utf-8")
    assert VoteStore(path).add(vote("A")).losses == 1
    assert VoteStore(path).add(vote("A")).losses == 2
    path.write_text("not JSON\n", encoding="utf-8")
    with pytest.raises(ConversationError, match=":1: this is not a vote"):
        VoteStore(path)


def test_votes_that_another_program_adds_count(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    store = VoteStore(path)
    add_vote(path, vote("B"))
    wins = store.add(vote("A"))
    assert (wins.wins, wins.losses) == (1, 1)
    add_vote(path, vote("B"))
    assert store.add(vote("A")).wins == 2
    path.write_text('{"kind": "vote", "context": ["a SECRET"]}\n', encoding="utf-8")
    with pytest.raises(SaveError, match=":1: this is not a vote: correct or remove that line") as caught:
        store.add(vote("A"))
    assert "SECRET" not in "".join(traceback.format_exception(caught.value))  # which the server's log gets


@pytest.mark.parametrize("store", [FeedbackStore, VoteStore])
def test_what_is_saved_is_on_the_disk(tmp_path: Path, store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    path, synced = tmp_path / "file.jsonl", []
    monkeypatch.setattr("os.fsync", lambda descriptor: synced.append(os.fstat(descriptor).st_size))
    store(path).add(vote("A") if store is VoteStore else {"rating": "up"})
    assert synced == [path.stat().st_size]


def test_records_of_several_threads_are_whole_lines(tmp_path: Path) -> None:
    store = FeedbackStore(tmp_path / "feedback.jsonl")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: store.add({"number": number, "text": "é" * 5000}), range(40)))
    lines = (tmp_path / "feedback.jsonl").read_text(encoding="utf-8").splitlines()
    assert sorted(json.loads(line)["number"] for line in lines) == list(range(40))


def test_a_file_that_cannot_be_written_is_a_save_error(tmp_path: Path) -> None:
    with pytest.raises(SaveError, match="cannot be written"):
        FeedbackStore(tmp_path).add({})


def test_the_fingerprint_of_a_model_is_computed_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    computed: list[Any] = []
    monkeypatch.setattr(stores, "model_fingerprint", lambda model: f"hash {computed.append(model) or len(computed)}")
    store, first, second = FeedbackStore(tmp_path / "f"), torch.nn.Linear(1, 1), torch.nn.Linear(1, 1)

    assert [store.fingerprint(model) for model in (first, second, first, second)] == [  # type: ignore[arg-type]
        "hash 1", "hash 2", "hash 1", "hash 2"
    ]  # fmt: skip
    computed.clear()
    model = weakref.ref(first)
    del first
    gc.collect()
    assert model() is None  # a model that is no longer served is not kept


def test_wins_are_read_without_a_vote(tmp_path: Path) -> None:
    store = VoteStore(tmp_path / "votes.jsonl")
    assert (store.wins("A", "B").wins, store.wins("A", "B").neither) == (0, 0)
    store.add(vote("B"))
    store.add(vote(None))
    wins = VoteStore(tmp_path / "votes.jsonl").wins("B", "A")
    assert (wins.wins, wins.losses, wins.neither) == (0, 1, 1)
