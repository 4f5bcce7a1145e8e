"""Counts of judgements: read again only when a file has changed, and what is still missing."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from serving import wait_until

from convmodel.server.serving import improvement_counts
from convmodel.server.serving.improvement_counts import Counts, JudgementCounts


def line(**fields: Any) -> str:
    context = [{"role": "user", "content": "Hello"}]
    return json.dumps({"context": context, "responder": "assistant", "kind": "thumb", **fields}) + "\n"


def test_kinds_and_forms_of_all_files_are_counted(tmp_path: Path) -> None:
    feedback, votes = tmp_path / "feedback.jsonl", tmp_path / "votes.jsonl"
    counts = JudgementCounts([feedback, votes])
    assert counts.read().total == 0
    assert counts.usable() == []
    feedback.write_text(line(chosen="Hi") + line(rejected="Go") + line(chosen="Hi", rejected="Go", kind="edit"))
    votes.write_text(line(chosen="Hi", rejected="Go", kind="vote"))
    found = counts.read()
    assert found.kinds == {"edit": 1, "thumb": 2, "vote": 1}
    assert (found.pairs, found.liked, found.disliked, found.total) == (2, 1, 1, 4)
    assert "16 more judgements" in found.needed
    assert counts.usable() == [feedback, votes]


def test_a_file_is_read_again_only_when_it_has_changed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, reads, read = tmp_path / "feedback.jsonl", [], improvement_counts._read

    def counted(file: Path) -> Counts:
        reads.append(file)
        return read(file)

    monkeypatch.setattr(improvement_counts, "_read", counted)
    counts = JudgementCounts([path])
    path.write_text(line(chosen="Hi"))
    assert [counts.read().liked for _ in range(3)] == [1, 1, 1]
    assert len(reads) == 1
    with path.open("a") as file:
        file.write(line(chosen="Hi"))
    wait_until(lambda: counts.read().liked == 2)
    assert len(reads) == 2


def test_a_file_that_takes_long_to_read_is_not_read_all_the_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, now, read = tmp_path / "feedback.jsonl", [0.0], improvement_counts._read

    def slow(file: Path) -> Counts:
        now[0] += 3
        return read(file)

    # Only this module's clock: event loops of other tests that saw a false time would sleep until it comes.
    monkeypatch.setattr(
        improvement_counts, "time", SimpleNamespace(monotonic=lambda: now[0], thread_time=lambda: now[0])
    )
    monkeypatch.setattr(improvement_counts, "_read", slow)
    counts = JudgementCounts([path])
    path.write_text(line(chosen="Hi"))
    assert counts.read().liked == 1
    with path.open("a") as file:
        file.write(line(chosen="Hi"))
    now[0] += 29
    assert counts.read().liked == 1
    now[0] += 1
    assert counts.read().liked == 2
    with path.open("a") as file:
        file.write(line(chosen="Hi"))
    assert counts.read().liked == 2
    assert counts.read(current=True).liked == 3


def test_what_cannot_be_used_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "feedback.jsonl"
    path.write_text(line(chosen="Hi") + line(chosen="Hi", rejected="Hi ", kind="edit"))
    found = JudgementCounts([path]).read()
    assert (found.total, found.problems) == (1, [])
    [left_out] = found.left_out
    assert left_out.startswith("feedback.jsonl: left out: 1 with two equal responses")
    path.write_text(line(chosen="Hi", rejected="Hi", kind="edit"))
    found = JudgementCounts([path]).read()
    assert (found.total, found.problems, len(found.left_out)) == (0, [], 1)
    assert JudgementCounts([path]).usable() == []  # the command would refuse it
    path.write_text(line(chosen="Hi") + "not JSON\n" + line(chosen="Hi"))
    [problem] = JudgementCounts([path]).read().problems
    assert "feedback.jsonl:2" in problem


@pytest.mark.parametrize(
    ("counts", "needed"),
    [
        (Counts(), True),
        (Counts(liked=40), True),
        (Counts(disliked=40), True),
        (Counts(liked=10, disliked=9), True),
        (Counts(liked=10, disliked=10), False),
        (Counts(pairs=20), False),
        (Counts(liked=19, pairs=1), False),
    ],
)
def test_what_is_needed(counts: Counts, needed: bool) -> None:
    assert bool(counts.needed) == needed
    assert counts.describe()["needed"] == counts.needed
