"""A run that learns from judgements, killed at any moment, ends with the model that it would have made undisturbed."""

import json
from pathlib import Path

import pytest
from killing import STAGE, Command, kill_again_and_again, make_data, require_same

from fine_tuning import TALKS

KTO = "--objective kto --replay replay.jsonl --max-regression 100 --epochs 15 --batch-size 2"
DPO = "--objective dpo --max-regression 100 --epochs 4 --batch-size 1 --gradient-accumulation-steps 2 --packing --lora"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with a correction of each conversation's last turn, and conversations to replay."""
    make_data(tmp_path)
    (tmp_path / "train.jsonl").rename(tmp_path / "replay.jsonl")
    rows = [
        {"context": talk[:-1], "chosen": talk[-1], "rejected": f"{talk[0]}, {number}", "kind": "edit"}
        for number, talk in enumerate(TALKS)
        if len(talk) > 1
    ]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return tmp_path


@pytest.mark.long
def test_killed_at_a_dozen_moments_equals_uninterrupted(place: Path, unigram_folder: Path) -> None:
    undisturbed = Command(place, unigram_folder, place / "whole", KTO, fresh=True)
    expected = undisturbed.finish()
    command = Command(place, unigram_folder, place / "killed", KTO)

    while_saving = kill_again_and_again(command, 12, seed=3)

    assert while_saving >= 3
    assert 10 < command.checkpoint() < expected["steps"]
    require_same(command.finish(), command, (expected, undisturbed))
    assert not list(command.output.glob(STAGE))


@pytest.mark.long
def test_packed_pairs_with_adapters_go_on_after_kills(place: Path, unigram_folder: Path) -> None:
    whole, killed = (Command(place, unigram_folder, place / name, DPO) for name in ("whole", "killed"))
    undisturbed = whole.finish(), whole

    kill_again_and_again(killed, 3, seed=1)

    assert killed.checkpoint() > 0
    require_same(killed.finish(), killed, undisturbed)
