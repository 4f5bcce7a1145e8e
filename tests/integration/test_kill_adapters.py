"""A run with LoRA, packed rows and accumulation, killed at any moment, ends as the one of `test_kill.py` does."""

from pathlib import Path

import pytest
from killing import STAGE, Command, kill_again_and_again, make_data, require_same

OPTIONS = "--epochs 40 --batch-size 1 --gradient-accumulation-steps 2 --packing --max-length 110 --lora"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.mark.long
def test_killed_at_a_dozen_moments_equals_uninterrupted(tmp_path: Path, unigram_folder: Path) -> None:
    place = make_data(tmp_path)
    undisturbed = Command(place, unigram_folder, place / "whole", OPTIONS, fresh=True)
    expected = undisturbed.finish()
    command = Command(place, unigram_folder, place / "killed", OPTIONS)

    while_saving = kill_again_and_again(command, 12, seed=7)

    assert while_saving >= 3
    assert 10 < command.checkpoint() < expected["steps"]
    require_same(command.finish(), command, (expected, undisturbed))
    assert not list(command.output.glob(STAGE))
