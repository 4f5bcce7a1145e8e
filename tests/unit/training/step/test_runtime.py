"""Precision, threads and memory are chosen for the time of a run."""

import platform
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from convmodel.errors import ConfigError
from convmodel.hf_model.waiting import Waiting
from convmodel.training.step import runtime
from convmodel.training.step.runtime import choose_precision, computes_bf16, training_runtime

CPU = torch.device("cpu")
SIZE = 400 << 20
KEEP_MEMORY = f"""
from pathlib import Path
import torch
from convmodel.training.step.runtime import training_runtime

def print_resident():
    print(int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1]) * 4096)

with training_runtime(torch.device("cpu")):
    torch.ones({SIZE} // 4)
    print_resident()
    torch.ones({SIZE} // 8)
    print_resident()
print_resident()
"""


@pytest.mark.parametrize(("able", "chosen"), [(True, "bf16"), (False, "fp32")])
def test_auto_is_bf16_where_the_processor_has_units_for_it(
    able: bool, chosen: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"amx_bf16": able, "avx512_bf16": False, "avx2": True})

    assert choose_precision("auto", CPU) == chosen
    assert choose_precision("fp32", CPU) == "fp32"
    assert choose_precision("bf16", CPU) == "bf16"  # slow without units, but right


def test_a_torch_that_cannot_tell_computes_in_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(torch.cpu, "get_capabilities")

    assert not computes_bf16(CPU)


@pytest.mark.skipif(not Path("/proc/cpuinfo").exists(), reason="only Linux lists the flags")
def test_what_torch_says_of_the_processor_is_what_the_kernel_says() -> None:
    flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")

    assert computes_bf16(CPU) == ("amx_bf16" in flags or "avx512_bf16" in flags)


def test_fp16_needs_a_gpu() -> None:
    with pytest.raises(ConfigError, match="fp16, which needs a GPU: use bf16, fp32 or auto"):
        choose_precision("fp16", CPU)


def test_threads_are_those_of_the_cores_that_may_be_used_and_come_back(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS")
    monkeypatch.setattr(runtime.os, "sched_getaffinity", lambda pid: {0, 1, 2}, raising=False)
    monkeypatch.setattr(runtime.sys, "platform", "linux")
    before = torch.get_num_threads()
    torch.set_num_threads(5)
    try:
        with training_runtime(CPU):
            assert torch.get_num_threads() == 3
        assert torch.get_num_threads() == 5
        monkeypatch.setenv("OMP_NUM_THREADS", "5")
        with training_runtime(CPU):
            assert torch.get_num_threads() == 5  # the user's word
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(("device", "adapts"), [("cpu", True), ("meta", False)])
def test_threads_adapt_to_other_programs_while_a_cpu_computes(
    device: str, adapts: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    waiting = Waiting()
    monkeypatch.setattr(runtime, "WAITING", waiting)
    with training_runtime(torch.device(device)):
        assert bool(waiting._blocks) == adapts
    assert not waiting._blocks


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
def test_memory_is_kept_inside_and_given_back_afterwards() -> None:
    # In a process of its own: here, threads and memory of other tests would be counted, too.
    done = subprocess.run([sys.executable, "-c", KEEP_MEMORY], capture_output=True, text=True, check=True)
    kept, again, afterwards = map(int, done.stdout.split())

    assert again - kept < SIZE // 8  # the same memory again
    assert kept - afterwards > SIZE // 2


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc is told to keep memory")
@pytest.mark.parametrize(
    "name", ["MALLOC_MMAP_MAX_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES", "LD_PRELOAD"]
)
def test_memory_is_left_to_a_user_who_has_decided(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[bool] = []
    monkeypatch.setattr(runtime, "_keep_freed_memory", lambda keep: calls.append(keep) or True)
    for variable in runtime._MEMORY_VARIABLES:
        monkeypatch.delenv(variable, raising=False)

    with training_runtime(CPU):
        pass
    assert calls == [True, False]
    monkeypatch.setenv(name, "1")
    with training_runtime(CPU):
        pass
    assert calls == [True, False]
