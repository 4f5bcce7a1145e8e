"""The real command, killed at any moment and started again, ends with the model that it would have made undisturbed."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from convmodel.training.manifest import damage
from fine_tuning import TALKS

UPDATES = 120
STAGE = ".convmodel-*"
"""What files are written to before they are moved to their place."""

pytestmark = pytest.mark.timeout(600)


class Command:
    """`convmodel fit` with one output folder, in a process of its own that saves after every update."""

    def __init__(self, data: Path, model: Path, output: Path, *, launcher: list[str] | None = None) -> None:
        self.output = output
        options = f"--epochs {UPDATES // 6} --batch-size 2 --learning-rate 1e-3 --dropout 0.1"
        options += " --logging-steps 4 --save-minutes 1e-9"
        files = ["train.jsonl", "--valid", "valid.jsonl", "--model", str(model), "--output-dir", str(output), "--json"]
        self._line = [sys.executable, "-m", *(launcher or []), "convmodel", "fit", *files, *options.split()]
        self._data = data

    def start(self) -> subprocess.Popen[str]:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        pipe = subprocess.PIPE
        return subprocess.Popen(self._line, cwd=self._data, env=environment, stdout=pipe, stderr=pipe, text=True)

    def finish(self) -> dict[str, Any]:
        """Runs to the end; returns what was done."""
        return self.result(self.start())

    def result(self, running: subprocess.Popen[str]) -> dict[str, Any]:
        """Waits for the end; returns what was done, but how long it took."""
        out, err = running.communicate(timeout=180)
        assert running.returncode == 0, err
        result: dict[str, Any] = json.loads(out)
        timed = ("seconds", "per_second", "runtime")
        history = [{name: log[name] for name in log if not name.endswith(timed)} for log in result.pop("history")]
        del result["config"]["output_dir"], result["output_dir"]
        return {name: value for name, value in result.items() if not name.endswith(timed)} | {"history": history}

    def measured(self) -> list[dict[str, Any]]:
        """The lines of `metrics.jsonl`, but times and the folder's name."""
        lines = map(json.loads, (self.output / "metrics.jsonl").read_text(encoding="utf-8").splitlines())
        timed = ("seconds", "time", "tokens_per_second", "config")
        return [{name: value for name, value in line.items() if name not in timed} for line in lines]

    def checkpoint(self) -> int:
        """The update after which the newest checkpoint was made; 0 without one."""
        return max((int(path.name[11:]) for path in self.output.glob("checkpoint-*")), default=0)

    def wait(self, running: subprocess.Popen[str], reached: Callable[[], Any]) -> None:
        """Looks on until something is reached."""
        while running.poll() is None and not reached():
            time.sleep(0.001)


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kill")
    for name, talks in (("train", TALKS), ("valid", TALKS[:3])):
        lines = [json.dumps(talk) + "\n" for talk in talks]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def whole(place: Path, unigram_folder: Path) -> tuple[dict[str, Any], Command]:
    """What the command does undisturbed, and itself with the folder that it writes."""
    command = Command(place, unigram_folder, place / "whole")
    return command.finish(), command


def require_same(found: dict[str, Any], command: Command, whole: tuple[dict[str, Any], Command]) -> None:
    """Checks that two runs made the same model, byte for byte, and measured the same."""
    expected, undisturbed = whole
    assert found == expected
    assert command.measured() == undisturbed.measured()
    models = [(each.output / "model.safetensors").read_bytes() for each in (command, undisturbed)]
    assert models[0] == models[1]


def test_killed_at_twenty_moments_and_more_it_ends_as_if_undisturbed(
    place: Path, unigram_folder: Path, whole: tuple[dict[str, Any], Command]
) -> None:
    command = Command(place, unigram_folder, place / "killed")
    chance = random.Random(5)
    at_start, while_saving, kills = 4, 0, 0
    for number in range(22):
        running = command.start()
        if number < at_start:
            time.sleep(chance.uniform(0.2, 3.5))
        else:
            target = command.checkpoint() + chance.randint(1, 4)
            command.wait(running, lambda at_least=target: command.checkpoint() >= at_least)
            if number % 2:
                command.wait(running, lambda: any(command.output.glob(STAGE)))
            else:
                time.sleep(chance.uniform(0, 0.05))
        running.send_signal(signal.SIGKILL)
        _, err = running.communicate()
        assert running.returncode == -signal.SIGKILL, err
        kills += 1
        while_saving += any(command.output.glob(STAGE))

    assert kills >= 20
    assert while_saving >= 5
    assert 20 < command.checkpoint() < UPDATES
    require_same(command.finish(), command, whole)
    assert not list(command.output.glob(STAGE))
    assert not list(command.output.glob("checkpoint-*"))


def test_stopped_by_signals_it_saves_exits_as_shells_expect_and_goes_on(
    place: Path, unigram_folder: Path, whole: tuple[dict[str, Any], Command]
) -> None:
    command = Command(place, unigram_folder, place / "stopped")
    for number, code in ((signal.SIGTERM, 143), (signal.SIGINT, 130)):
        running = command.start()
        target = command.checkpoint() + 3
        command.wait(running, lambda at_least=target: command.checkpoint() >= at_least)
        running.send_signal(number)
        out, err = running.communicate(timeout=30)

        step = command.checkpoint()
        assert (running.returncode, out) == (code, "")
        assert err.splitlines()[-1] == (
            f"convmodel: {number.name} stopped the run after update {step} of {UPDATES}; all is saved in "
            f"{command.output}/checkpoint-{step}: start it again in the same way to go on from there"
        )
        assert damage(command.output / f"checkpoint-{step}") == ""

    require_same(command.finish(), command, whole)


@pytest.mark.slow
def test_a_killed_worker_is_started_again_by_torchrun_and_goes_on(place: Path, unigram_folder: Path) -> None:
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--max-restarts", "3", "-m"]
    undisturbed = Command(place, unigram_folder, place / "two", launcher=launcher)
    expected = undisturbed.finish()
    command = Command(place, unigram_folder, place / "worker", launcher=launcher)

    running = command.start()
    command.wait(running, lambda: command.checkpoint() >= 12)
    workers = Path(f"/proc/{running.pid}/task/{running.pid}/children").read_text(encoding="utf-8").split()
    os.kill(int(workers[-1]), signal.SIGKILL)

    require_same(command.result(running), command, (expected, undisturbed))
