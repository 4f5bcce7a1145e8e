"""A process of training: its lock, its end, its priority and its error."""

import os
import signal
import sys
import time
from pathlib import Path

import pytest
from fake_improve import command
from serving import wait_until

from convmodel.errors import SaveError
from convmodel.server.serving.background_process import NICENESS, BackgroundProcess, last_error


def arguments(folder: Path) -> list[str]:
    (folder / "f.jsonl").write_text("{}\n")
    return ["model", "--feedback", str(folder / "f.jsonl"), "--output-dir", str(folder / "new"), "--json"]


@pytest.mark.slow
def test_a_process_runs_with_a_lower_priority_and_its_lock_outlives_its_server(tmp_path: Path) -> None:
    process = BackgroundProcess(tmp_path / "log")
    assert not process.running
    process.start([*command(steps=1000, pause=0.05), *arguments(tmp_path)])
    assert process.running
    assert process.own
    assert os.getpriority(os.PRIO_PROCESS, process.pid) >= min(19, os.getpriority(os.PRIO_PROCESS, 0) + NICENESS)

    if sys.platform == "linux":  # where memory runs out, it goes before the server
        assert int(Path(f"/proc/{process.pid}/oom_score_adj").read_text()) == 500

    of_next_server = BackgroundProcess(tmp_path / "log", process.pid)
    assert of_next_server.running
    assert not of_next_server.own
    with pytest.raises(SaveError, match=f"an earlier improvement still writes .*log: end its process, {process.pid}"):
        BackgroundProcess(tmp_path / "log", process.pid).start(command())
    wait_until((tmp_path / "new/metrics.jsonl").exists)
    with pytest.raises(SaveError, match=r"an earlier improvement still writes .*log: wait until it has ended$"):
        BackgroundProcess(tmp_path / "log").start(command())
    of_next_server.stop()
    process.wait(10)
    assert not process.running
    assert not of_next_server.running
    assert process.failed
    assert not of_next_server.failed
    assert "resumes" in last_error(tmp_path / "log")
    of_next_server.stop()  # its id may belong to another process by now


def test_a_process_gets_the_memory_that_the_server_keeps_on_a_gpu(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    released = tmp_path / "released"
    monkeypatch.setattr("torch.cuda.empty_cache", released.touch)
    process = BackgroundProcess(tmp_path / "log")
    process.start([sys.executable, "-c", "import os, sys; os.stat(sys.argv[1])", str(released)])
    process.wait(10)
    assert process.exit_code == 0


def test_a_process_is_asked_once_to_end(tmp_path: Path) -> None:
    """A second signal would end `convmodel fit` before it has saved a checkpoint."""
    code = """
import pathlib, signal, sys, time
count = []
signal.signal(signal.SIGTERM, lambda *_: count.append(1))
pathlib.Path(sys.argv[1]).touch()
while not count:
    time.sleep(0.01)
time.sleep(0.5)
sys.exit(len(count))
"""
    process = BackgroundProcess(tmp_path / "log")
    process.start([sys.executable, "-c", code, str(tmp_path / "ready")])
    wait_until((tmp_path / "ready").exists)
    for _ in range(3):
        process.stop()
        time.sleep(0.05)  # signals that arrive together count as one
    process.wait(30)
    assert process.exit_code == 1


def test_a_program_that_is_missing_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(SaveError, match="the improvement cannot be started"):
        BackgroundProcess(tmp_path / "log").start([str(tmp_path / "missing")])
    with pytest.raises(SaveError, match="the improvement cannot be started"):
        BackgroundProcess(tmp_path / "no/folder/log").start([sys.executable])


def test_a_killed_process_has_failed(tmp_path: Path) -> None:
    process = BackgroundProcess(tmp_path / "log")
    process.start([*command(steps=1000), *arguments(tmp_path)])
    os.kill(process.pid, signal.SIGKILL)
    process.wait(10)
    assert process.failed


@pytest.mark.parametrize(
    ("log", "message"),
    [
        ("", "the process ended without a message"),
        ("one\ntwo\n\n  \n", "two"),
        ("\x1b[31merror: no room\x1b[0m\n", "error: no room"),
        ("10 %\r20 %\r\n", "20 %"),
        ("first\r\nsecond\r\n", "second"),
        ("x" * 900, "x" * 499 + "…"),
    ],
)
def test_the_error_is_the_last_line(tmp_path: Path, log: str, message: str) -> None:
    (tmp_path / "log").write_text(log, newline="")
    assert last_error(tmp_path / "log") == message
    assert last_error(tmp_path / "missing") == "the process ended without a message"


def test_results_go_to_a_file_of_their_own(tmp_path: Path) -> None:
    process = BackgroundProcess(tmp_path / "log", what="job", output=tmp_path / "result")
    assert process.exit_code is None
    process.start([sys.executable, "-c", "import sys; print('result'); print('report', file=sys.stderr); sys.exit(3)"])
    process.wait(30)
    assert (process.exit_code, process.failed) == (3, True)
    assert ((tmp_path / "result").read_text(), (tmp_path / "log").read_text()) == ("result\n", "report\n")
    with pytest.raises(SaveError, match="the job cannot be started"):
        BackgroundProcess(tmp_path / "log", what="job").start([str(tmp_path / "missing")])


def test_a_process_elsewhere_imports_what_its_server_does(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Files of clients lie there, which may be called like a module."""
    folder, outside = tmp_path / "input", tmp_path / "site"
    folder.mkdir()
    outside.mkdir()
    (folder / "json.py").write_text("raise SystemExit('imported from the folder')")
    (outside / "known_to_the_server.py").write_text("")
    monkeypatch.syspath_prepend(outside)
    code = "import json, os, known_to_the_server; print(json.dumps(os.listdir()))"
    process = BackgroundProcess(tmp_path / "log", output=tmp_path / "output", folder=folder)
    process.start([sys.executable, "-c", code])
    process.wait(30)
    assert (process.exit_code, (tmp_path / "output").read_text()) == (0, '["json.py"]\n'), last_error(tmp_path / "log")


def test_a_long_error_is_cut_where_it_is_wanted(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("a" * 1000)
    assert last_error(tmp_path / "log") == "a" * 499 + "…"
    assert last_error(tmp_path / "log", 1000) == "a" * 1000
