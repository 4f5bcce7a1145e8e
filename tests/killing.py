"""The real `fit` command in a process of its own, to be killed and started again."""

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import forking
from forking import Process

from convmodel.training.resume.run_folder import newest_step
from fine_tuning import TALKS

STAGE = ".convmodel-*"
"""What files are written to before they are moved to their place."""


class Command:
    """`convmodel fit` with one output folder, in a process of its own that saves after every update.

    Args:
        data: The folder with the conversations, in which the command runs.
        model: The model to start from; without it the command trains a new one.
        output: The output folder.
        options: More of the command line.
        launcher: What starts the processes that train together, as an argument of `-m`.
        fresh: Whether the process imports everything for itself, as it does for users; else it is forked.
    """

    def __init__(
        self,
        data: Path,
        model: Path | None,
        output: Path,
        options: str,
        *,
        launcher: list[str] | None = None,
        fresh: bool = False,
    ) -> None:
        self.output = output
        options += " --learning-rate 1e-3 --dropout 0.1 --logging-steps 4 --save-minutes 1e-9"
        files = ["train.jsonl", "--valid", "valid.jsonl", "--output-dir", str(output), "--json"]
        files += ["--model", str(model)] if model else ["--from-scratch", "tiny"]
        self._line = ["-m", *(launcher or []), "convmodel", "fit", *files, *options.split()]
        self._data = data
        self._fresh = fresh or launcher is not None

    def start(self) -> Process:
        environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}
        # With one store for all starts, restarted workers may read the addresses of the ones before (pytorch#135712).
        environment["TORCH_DISABLE_SHARE_RDZV_TCP_STORE"] = "1"
        return forking.start(self._line, cwd=self._data, env=environment, fresh=self._fresh)

    def finish(self) -> dict[str, Any]:
        """Runs to the end; returns what was done."""
        return self.result(self.start())

    def result(self, running: Process) -> dict[str, Any]:
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
        return newest_step(self.output)

    def wait(self, running: Process, reached: Callable[[], Any]) -> None:
        """Looks on until something is reached."""
        while running.poll() is None and not reached():
            time.sleep(0.001)


def make_data(folder: Path) -> Path:
    """Writes conversations to train and to validate on."""
    for name, talks in (("train", TALKS), ("valid", TALKS[:3])):
        lines = [json.dumps(talk) + "\n" for talk in talks]
        (folder / f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    return folder


def require_same(found: dict[str, Any], command: Command, whole: tuple[dict[str, Any], Command]) -> None:
    """Checks that two runs made the same model, byte for byte, and measured the same."""
    expected, undisturbed = whole
    assert found == expected
    assert command.measured() == undisturbed.measured()
    models = [
        {path.name: path.read_bytes() for path in each.output.glob("*.safetensors")} for each in (command, undisturbed)
    ]
    assert models[0] == models[1]
    assert models[0]


def kill_again_and_again(command: Command, kills: int, *, seed: int) -> int:
    """Kills a command at random moments, every second time while it saves; returns how often that was so."""
    chance = random.Random(seed)
    at_start, while_saving = 2, 0
    for number in range(kills):
        running = command.start()
        if number < at_start:
            time.sleep(chance.uniform(0.05, 0.5))
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
        while_saving += any(command.output.glob(STAGE))
    return while_saving
