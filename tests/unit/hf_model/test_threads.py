"""Fewer threads while a core is busy with something else, on a clock of the test's own."""

from collections.abc import Iterator

import pytest
import torch

from convmodel.hf_model.threads import VARIABLES, Threads, Usage, current_usage, free_threads


class Machine:
    """Cores of which some may be busy; its clock goes on while something computes."""

    def __init__(self, cores: int) -> None:
        self.cores, self.busy = cores, 0
        self.wall, self.cpu, self.switches = 100.0, 0.0, 0.0

    def usage(self) -> Usage:
        self.compute(0.001)  # as a trial does between two looks
        return Usage(self.wall, self.cpu, int(self.switches))

    def compute(self, seconds: float) -> None:
        threads = torch.get_num_threads()
        shared = max(0, threads + self.busy - self.cores)  # half of the time of so many threads is someone else's
        self.wall += seconds
        self.cpu += seconds * (threads - shared / 2)
        self.switches += seconds * (200 if shared else 30)


@pytest.fixture(autouse=True)
def without_variables(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    before = torch.get_num_threads()
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)
    yield
    torch.set_num_threads(before)


def run(threads: Threads, machine: Machine, seconds: float) -> list[int]:
    """Steps of 40 ms each; returns on how many threads each ran."""
    counts = []
    for _ in range(int(seconds / 0.04)):
        with threads.step():
            counts.append(torch.get_num_threads())
            machine.compute(0.04)
    return counts


@pytest.mark.parametrize(("cores", "busy", "fewer"), [(2, 1, 1), (4, 1, 3), (8, 3, 5)])
def test_fewer_threads_while_other_programs_compute(cores: int, busy: int, fewer: int) -> None:
    machine = Machine(cores)
    threads = Threads(machine.usage)
    torch.set_num_threads(cores)
    assert set(run(threads, machine, 3.0)) == {cores}
    machine.busy = busy
    assert run(threads, machine, 1.0)[5:] == [fewer] * 20  # after a few steps, and stays so
    machine.busy = 0
    counts = run(threads, machine, 4.0)
    assert counts[-1] == cores
    assert counts[0] == fewer


def test_a_trial_that_finds_the_core_busy_is_short() -> None:
    machine = Machine(2)
    threads = Threads(machine.usage)
    torch.set_num_threads(2)
    machine.busy = 1
    run(threads, machine, 0.2)
    begin = machine.wall
    assert set(run(threads, machine, 20.0)) == {1}
    assert machine.wall - begin < 20.0 * 1.1


def test_serial_work_is_no_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is taken away from this process, which computes on one thread by itself."""
    machine = Machine(2)
    threads = Threads(machine.usage)
    torch.set_num_threads(2)
    monkeypatch.setattr(machine, "compute", lambda seconds: vars(machine).update(wall=machine.wall + seconds))
    assert set(run(threads, machine, 1.0)) == {2}


@pytest.mark.parametrize("name", VARIABLES)
def test_what_the_user_has_set_wins(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "2")
    machine = Machine(2)
    torch.set_num_threads(2)
    machine.busy = 1
    assert set(run(Threads(machine.usage), machine, 1.0)) == {2}


def test_another_number_that_the_user_sets_is_kept() -> None:
    machine = Machine(4)
    threads = Threads(machine.usage)
    torch.set_num_threads(4)
    machine.busy = 1
    assert run(threads, machine, 1.0)[-1] == 3
    torch.set_num_threads(2)
    assert set(run(threads, machine, 3.0)) == {2}


def test_one_thread_is_not_watched() -> None:
    torch.set_num_threads(1)
    looks: list[Usage] = []
    threads = Threads(lambda: looks.append(current_usage()) or looks[-1])
    with threads.step():
        pass
    assert not looks


def test_the_use_grows_with_time() -> None:
    before = current_usage()
    torch.ones(300, 300) @ torch.ones(300, 300)
    after = current_usage()
    assert after.wall > before.wall
    assert after.cpu >= before.cpu
    assert after.switches >= before.switches


@pytest.mark.parametrize(("cores", "busy", "free"), [(2, 0, 2), (2, 1, 1), (4, 1, 3), (4, 0, 4)])
def test_a_program_that_is_started_leaves_busy_cores_alone(cores: int, busy: int, free: int) -> None:
    machine = Machine(cores)
    machine.busy = busy
    torch.set_num_threads(cores)
    assert free_threads(machine.usage) == free


def test_threads_that_the_user_has_set_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "2")
    machine = Machine(2)
    machine.busy = 1
    torch.set_num_threads(2)
    assert free_threads(machine.usage) == 2
