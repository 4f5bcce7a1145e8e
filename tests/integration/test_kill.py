"""The real command, killed at any moment and started again, ends with the model that it would have made undisturbed.

`test_kill_adapters.py` kills another dozen times.
"""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
from killing import STAGE, Command, kill_again_and_again, make_data, require_same

from convmodel.training.resume.manifest import damage

STEPS = 84
OPTIONS = f"--epochs {STEPS // 6} --batch-size 2"

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_data(tmp_path_factory.mktemp("kill"))


@pytest.fixture(scope="module")
def whole(place: Path, unigram_folder: Path) -> tuple[dict[str, Any], Command]:
    """What the command does undisturbed, and itself with the folder that it writes."""
    command = Command(place, unigram_folder, place / "whole", OPTIONS, fresh=True)
    return command.finish(), command


def test_killed_at_a_dozen_moments_equals_uninterrupted(
    place: Path, unigram_folder: Path, whole: tuple[dict[str, Any], Command]
) -> None:
    command = Command(place, unigram_folder, place / "killed", OPTIONS)

    while_saving = kill_again_and_again(command, 12, seed=5)

    assert while_saving >= 3
    assert 10 < command.checkpoint() < STEPS
    require_same(command.finish(), command, whole)
    assert not list(command.output.glob(STAGE))
    assert not list(command.output.glob("checkpoint-*"))


@pytest.mark.long
def test_a_killed_fit_from_scratch_goes_on_with_the_same_new_model(place: Path) -> None:
    whole, killed = (Command(place, None, place / f"scratch-{name}", "--max-steps 12") for name in ("whole", "killed"))
    undisturbed = whole.finish(), whole

    kill_again_and_again(killed, 3, seed=1)

    assert killed.checkpoint() > 0
    require_same(killed.finish(), killed, undisturbed)


@pytest.mark.long
def test_stopped_by_signals_it_saves_exits_as_shells_expect_and_goes_on(
    place: Path, unigram_folder: Path, whole: tuple[dict[str, Any], Command]
) -> None:
    command = Command(place, unigram_folder, place / "stopped", OPTIONS)
    for number, name, code in ((signal.SIGTERM, "SIGTERM", 143), (signal.SIGINT, "Ctrl+C", 130)):
        running = command.start()
        target = command.checkpoint() + 3
        command.wait(running, lambda at_least=target: command.checkpoint() >= at_least)
        running.send_signal(number)
        out, err = running.communicate(timeout=30)

        step = command.checkpoint()
        assert (running.returncode, out) == (code, "")
        assert err.splitlines()[-1] == (
            f"convmodel: {name} stopped the run after step {step} of {STEPS}; its state is in "
            f"{command.output}/checkpoint-{step}: start it again in the same way to resume from there"
        )
        assert damage(command.output / f"checkpoint-{step}") == ""

    require_same(command.finish(), command, whole)


@pytest.mark.long
def test_a_killed_worker_is_started_again_by_torchrun_and_goes_on(place: Path, unigram_folder: Path) -> None:
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "3", "-m"]
    undisturbed = Command(place, unigram_folder, place / "two", OPTIONS, launcher=launcher)
    expected = undisturbed.finish()
    command = Command(place, unigram_folder, place / "worker", OPTIONS, launcher=launcher)

    running = command.start()
    command.wait(running, lambda: command.checkpoint() >= 12)
    workers = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text(encoding="utf-8").split()
    os.kill(int(workers[-1]), signal.SIGKILL)

    require_same(command.result(running), command, (expected, undisturbed))
