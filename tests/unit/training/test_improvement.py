"""What `improve` chooses: what is held out, what is compared, and what it says is missing."""

import json
from pathlib import Path
from typing import Any

import pytest

from convmodel import Conversation
from convmodel.data.judgements.judgement import Judgement
from convmodel.files.hub import sample_file
from convmodel.training.improvement import HELD_OUT, SNAPSHOT, Judgements, needed


def judged(number: int, **fields: Any) -> Judgement:
    return Judgement(Conversation([f"Question {number}"]), "assistant", **({"chosen": f"Answer {number}"} | fields))


@pytest.mark.parametrize("count", [1, 20, 99])
def test_few_judgements_are_all_trained_on(count: int) -> None:
    parts = Judgements.split(map(judged, range(count)), seed=0)

    assert (len(parts.train), len(parts.held_out)) == (count, 0)


def test_of_many_whole_contexts_are_held_out_by_the_seed() -> None:
    judgements = [judged(number % 100, chosen=f"Answer {number}") for number in range(300)]
    parts, same, other = (Judgements.split(judgements, seed=seed) for seed in (0, 0, 1))

    contexts = [{each.context.turns for each in part} for part in (parts.train, parts.held_out)]
    assert not contexts[0] & contexts[1]
    assert len(contexts[1]) == 5
    assert len(parts.train) + len(parts.held_out) == 300
    assert parts == same
    assert parts != other


def test_no_more_is_held_out_than_is_compared() -> None:
    assert len(Judgements.split(map(judged, range(5000)), seed=0).held_out) == HELD_OUT


def test_models_are_compared_on_what_was_held_out_and_on_validation_data() -> None:
    valid = [Conversation(["Alone"]), *[Conversation([f"Hello {number}", "Hi"]) for number in range(30)]]
    held_out = [judged(1), judged(1, chosen=None, rejected="No"), judged(2, chosen=None, rejected="No")]
    found = Judgements([judged(0)], held_out).comparison(valid)

    assert len(found) == HELD_OUT
    assert [one.turns[0] for one in found[:3]] == ["Question 1", "Question 2", "Hello 0"]
    assert all(len(one.turns) > 1 for one in found)


def test_a_run_that_is_resumed_reads_what_it_began_with(tmp_path: Path) -> None:
    file, folder = tmp_path / "feedback.jsonl", tmp_path / "model"
    kept = judged(2, rejected="Old", kind="regeneration").to_dict()
    file.write_text("\n".join(json.dumps(line) for line in (judged(1, kind="thumb").to_dict(), kept)), encoding="utf-8")
    reading = {"regeneration_weight": 0.25}
    first = Judgements.read([str(file)], folder, reading)
    with file.open("a", encoding="utf-8") as lines:
        lines.write("\n" + json.dumps(judged(3).to_dict()))
    again = Judgements.read([str(file)], folder, reading)

    assert [each.weight for each in first] == [1, 0.25]
    assert again == first
    (folder / SNAPSHOT).unlink()
    assert len(Judgements.read([str(file)], folder, reading)) == 3


@pytest.mark.parametrize(
    ("counts", "missing"),
    [
        ((20, 0, 0), ""),
        ((0, 10, 10), ""),
        ((0, 0, 0), "20 more judgements"),
        ((0, 30, 0), "some judgements, of disliked responses among them"),
        ((0, 0, 5), "15 more judgements, of liked responses among them"),
    ],
)
def test_what_is_missing_is_said(counts: tuple[int, int, int], missing: str) -> None:
    pairs, liked, disliked = counts
    assert needed(pairs=pairs, liked=liked, disliked=disliked) == missing


@pytest.mark.parametrize("name", ["train", "valid", "test"])
def test_the_sample_is_there(name: str) -> None:
    assert sample_file(name).is_file()
