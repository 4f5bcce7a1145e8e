"""Threads that sleep while they wait, if a core is busy with something else, on a clock of the test's own."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest
import torch

from convmodel.hf_model import waiting as module
from convmodel.hf_model.threads import VARIABLES, Usage
from convmodel.hf_model.waiting import Waiting, passive_wait

CPU = torch.device("cpu")


class Machine:
    """Cores of which some may be busy; its clock goes on while something computes."""

    def __init__(self, cores: int) -> None:
        self.cores, self.busy = cores, 0
        self.wall, self.cpu, self.switches = 100.0, 0.0, 0.0
        self.passive: list[int] = []  # the threads that sleep while they wait

    def usage(self) -> Usage:
        self.compute(0.001)  # as a trial does between two looks
        return Usage(self.wall, self.cpu, int(self.switches))

    def compute(self, seconds: float) -> None:
        threads = torch.get_num_threads()
        shared = max(0, threads + self.busy - self.cores)  # half of the time of so many threads is someone else's
        self.wall += seconds
        self.cpu += 0.0 if self.passive else seconds * (threads - shared / 2)
        self.switches += seconds * (200 if shared else 30)

    @contextmanager
    def sleeping(self, threads: int) -> Iterator[None]:
        self.passive.append(threads)
        yield
        self.passive.remove(threads)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    """Two cores, nothing that the user has set, and an OpenMP library whose threads can sleep."""
    before = torch.get_num_threads()
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(module, "_libgomp", lambda: object())
    torch.set_num_threads(2)
    yield Machine(2)
    torch.set_num_threads(before)


def run(waiting: Waiting, machine: Machine, seconds: float, step: float = 0.04) -> list[bool]:
    """Takes steps; returns whether threads slept in each."""
    slept = []
    for _ in range(int(seconds / step)):
        waiting.look()
        slept.append(bool(machine.passive))
        machine.compute(step)
        assert torch.get_num_threads() == 2
    return slept


@pytest.mark.parametrize("step", [0.04, 0.5, 5.0])
def test_threads_sleep_while_other_programs_compute(machine: Machine, step: float) -> None:
    waiting = Waiting(machine.usage, machine.sleeping)
    with waiting.adapting(CPU):
        assert not any(run(waiting, machine, 20 * step, step))
        machine.busy = 1
        assert all(run(waiting, machine, 25 * step, step)[4:])  # after a few steps, and stays so
        machine.busy = 0
        assert not run(waiting, machine, max(4.0, 3 * step), step)[-1]


def test_a_trial_that_finds_the_core_busy_is_short(machine: Machine) -> None:
    waiting = Waiting(machine.usage, machine.sleeping)
    machine.busy = 1
    with waiting.adapting(CPU):
        run(waiting, machine, 0.2)
        begin = machine.wall
        assert all(run(waiting, machine, 20.0))
        assert machine.wall - begin < 20.0 * 1.1


def test_serial_work_is_no_reason(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    waiting = Waiting(machine.usage, machine.sleeping)
    monkeypatch.setattr(machine, "compute", lambda seconds: vars(machine).update(wall=machine.wall + seconds))
    with waiting.adapting(CPU):
        assert not any(run(waiting, machine, 1.0))


@pytest.mark.parametrize("name", VARIABLES)
def test_what_the_user_has_set_wins(machine: Machine, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "2")
    waiting = Waiting(machine.usage, machine.sleeping)
    machine.busy = 1
    with waiting.adapting(CPU):
        assert not any(run(waiting, machine, 1.0))


@pytest.mark.parametrize("reason", ["one thread", "another library", "no block"])
def test_nothing_is_measured_where_nothing_could_change(
    machine: Machine, reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    usages: list[Usage] = []
    waiting = Waiting(lambda: usages.append(machine.usage()) or usages[-1], machine.sleeping)
    if reason == "no block":
        waiting.look()
    with waiting.adapting(torch.device("meta")):
        waiting.look()
    with waiting.adapting(CPU):
        if reason == "one thread":
            torch.set_num_threads(1)
            waiting.look()
        if reason == "another library":
            monkeypatch.setattr(module, "_libgomp", lambda: None)
            waiting.look()
    assert not usages


def test_threads_that_cannot_be_started_are_no_error(machine: Machine) -> None:
    def cannot(threads: int) -> AbstractContextManager[None]:
        raise RuntimeError("can't start new thread")

    waiting = Waiting(machine.usage, cannot)
    machine.busy = 1
    with waiting.adapting(CPU):
        assert not any(run(waiting, machine, 1.0))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_library_that_fails_ends_the_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_libgomp", lambda: object())  # which has no functions
    with passive_wait(2):
        pass


def test_after_the_outermost_block_threads_wait_as_before(machine: Machine) -> None:
    waiting = Waiting(machine.usage, machine.sleeping)
    machine.busy = 1

    def train() -> None:
        with waiting.adapting(CPU):
            with waiting.adapting(CPU):
                assert run(waiting, machine, 1.0)[-1]
            assert machine.passive == [2]
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        train()
    assert not machine.passive
    machine.compute(60.0)
    with waiting.adapting(CPU):  # what was computed in between is not judged
        waiting.look()
        assert not machine.passive


SLEEPING = """
import time
import torch
from convmodel.hf_model.waiting import passive_wait

def spent():
    begin = time.process_time()
    for _ in range(40):
        values.mul_(1.0)
        time.sleep(0.01)  # during which the second thread waits for the next operation
    return time.process_time() - begin

torch.set_num_threads(2)
values = torch.ones(1 << 17)
spent()
before = spent()
with passive_wait(2):
    inside = spent()
print(before, inside, spent())
"""


def in_fresh_process(code: str) -> str:
    """Runs code in a process in which no variable decides about threads; returns what it prints."""
    environment = {name: value for name, value in os.environ.items() if name not in VARIABLES}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout


needs_libgomp = pytest.mark.skipif(
    module._libgomp() is None or module._CORES < 2, reason="needs GCC's OpenMP library and two cores"
)


@pytest.mark.slow
@needs_libgomp
def test_threads_that_wait_use_less_of_the_processor() -> None:
    before, inside, after = map(float, in_fresh_process(SLEEPING).split())
    assert inside < before / 3
    assert inside < after / 3


TRAINING = """
from contextlib import nullcontext
import torch
from convmodel import ConversationModel
from convmodel.hf_model.waiting import passive_wait

torch.set_num_threads(2)
ends = []
for context in (nullcontext(), passive_wait(2)):
    model = ConversationModel.from_pretrained("builtin:chitchat", device="cpu")
    begin = {name: value.clone() for name, value in model.hf_model.state_dict().items()}
    with context:
        model.fit([["Hello", "Hi there, how are you?"], ["Yes", "No"]], max_steps=3, batch_size=2, dropout=0.1)
    ends.append(model.hf_model.state_dict())
print(all(torch.equal(ends[0][name], ends[1][name]) for name in begin))
print(any(not torch.equal(ends[0][name], begin[name]) for name in begin))
"""


@pytest.mark.slow
@needs_libgomp
def test_weights_are_the_same_bit_for_bit() -> None:
    assert in_fresh_process(TRAINING).split() == ["True", "True"]


@needs_libgomp
def test_more_threads_than_cores_exist_only_inside() -> None:
    def count() -> int:
        return len([*Path("/proc/self/task").iterdir()])

    threads = torch.get_num_threads()
    before = count()
    with module.passive_wait(threads):
        # One of Python, which counts for nothing, and those that it adds: with torch's, there are more than cores.
        assert threads + count() - before - 1 > module._CORES
    end = time.monotonic() + 30.0
    while count() > before:  # the system takes a moment to end them
        assert time.monotonic() < end
        time.sleep(0.01)
