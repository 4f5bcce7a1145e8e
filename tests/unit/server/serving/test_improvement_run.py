"""How an improvement ends, and which one is resumed."""

import json
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from fake_improve import command
from serving import wait_until

from convmodel.errors import SaveError
from convmodel.server.serving import background_process
from convmodel.server.serving.improvement_file import ImprovementFile, JobRecord, changed
from convmodel.server.serving.improvement_run import ImprovementRun

SLOW = {"steps": 1000, "pause": 0.02}


class Runs:
    """The runs of one server after the other on one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.done: list[JobRecord] = []
        line = {"context": [{"role": "user", "content": "Hello"}], "responder": "assistant", "chosen": "Hi"}
        (folder / "f.jsonl").write_text(f"{json.dumps(line)}\n" * 3)

    def open(self, **options: object) -> ImprovementRun:
        self.file = ImprovementFile(self.folder / "better", {"chat": "builtin:chitchat"})
        paths = [self.folder / "f.jsonl", self.folder / "missing.jsonl"]
        run = ImprovementRun(self.file, paths, command(**options), threading.RLock(), self._on_done)
        self.feedback = run.counts.usable()
        return run

    def _on_done(self, job: JobRecord, result: Mapping[str, Any]) -> None:
        assert result["model"] == "builtin:chitchat"
        self.done.append(job)

    def close(self, run: ImprovementRun) -> None:
        run.close()
        self.file.close()


@pytest.fixture
def runs(tmp_path: Path) -> Runs:
    return Runs(tmp_path)


def described_of(run: ImprovementRun) -> Any:
    view = run.view()
    assert view is not None
    return view.describe()


def in_step(run: ImprovementRun) -> Callable[[], bool]:
    return lambda: bool(described_of(run)["progress"]["step"])


def test_a_run_that_ends_well_reports(runs: Runs) -> None:
    run = runs.open()
    assert run.view() is None
    run.start("chat", ["chat-1"], runs.feedback)
    wait_until(lambda: runs.done)
    [job] = runs.done
    assert (job.folder, job.state) == ("chat-2", "done")
    described = described_of(run)
    assert described["result"]["model"] == "builtin:chitchat"
    assert described["result"]["used"] == 3  # the file that is missing was not given
    assert described["progress"]["step"] == 3
    runs.close(run)


def test_a_cancelled_run_is_resumed_where_it_was(runs: Runs) -> None:
    run = runs.open(**SLOW)
    run.start("chat", (), runs.feedback)
    wait_until(in_step(run))
    run.cancel()
    assert described_of(run)["state"] == "cancelling"
    wait_until(lambda: not run.running)
    described = described_of(run)
    assert (described["state"], described["resumable"], described["error"]) == ("cancelled", True, "")
    step = described["progress"]["step"]
    runs.close(run)

    run = runs.open(steps=step + 1)
    assert described_of(run)["state"] == "cancelled"
    run.start("chat", (), runs.feedback)
    wait_until(lambda: runs.done)
    assert runs.done[0].folder == "chat-1"
    lines = (runs.folder / "better/chat-1/metrics.jsonl").read_text().splitlines()
    assert len(lines) == step + 3  # each step once
    runs.close(run)


def test_a_run_that_was_cancelled_too_late_is_done(runs: Runs) -> None:
    run = runs.open()
    run.start("chat", (), runs.feedback)
    run._cancelled = True  # as by `cancel` after the last step
    wait_until(lambda: not run.running)
    assert [job.state for job in runs.done] == ["done"]
    stopped: Any = SimpleNamespace(failed=True, own=True)
    assert run._ended_state(stopped, has_result=True) == "done"
    assert run._ended_state(stopped, has_result=False) == "cancelled"
    run._cancelled = False
    assert run._ended_state(stopped, has_result=True) == "failed"
    runs.close(run)


def test_a_process_that_cannot_be_resumed_is_named(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(background_process, "_LOCK_SECONDS", 0.1)
    run = runs.open(**SLOW)
    run.start("chat", (), runs.feedback)
    wait_until(in_step(run))
    assert run.job is not None
    job = run.job
    runs.file.record(changed(job, "interrupted"))
    with pytest.raises(SaveError, match=f"an earlier improvement still writes .*: end its process, {job.pid}$"):
        run.start("chat", (), runs.feedback)
    runs.file.record(job)
    runs.close(run)


def test_the_end_of_the_server_interrupts_a_run(runs: Runs) -> None:
    run = runs.open(**SLOW)
    run.start("chat", (), runs.feedback)
    wait_until(in_step(run))
    runs.close(run)
    run = runs.open()
    assert run.job is not None
    assert run.job.state == "interrupted"
    assert described_of(run)["resumable"]
    runs.close(run)


@pytest.mark.slow
@pytest.mark.parametrize("end", ["well", "badly", "cancelled"])
def test_a_run_that_a_killed_server_left_is_found_again(runs: Runs, end: str) -> None:
    run = runs.open(steps=30 if end == "well" else 1000, pause=0.03)
    run.start("chat", (), runs.feedback)
    wait_until(in_step(run))
    run._closed = True  # as after SIGKILL: nothing watches the process, which runs on
    runs.file.close()

    again = runs.open()
    assert again.running
    again.watch()
    if end == "cancelled":
        again.cancel()
    elif end == "badly":
        assert run._process is not None
        assert run._process._process is not None
        run._process._process.kill()
    wait_until(lambda: not again.running)
    assert again.job is not None
    assert again.job.state == {"well": "done", "badly": "interrupted", "cancelled": "cancelled"}[end]
    assert [job.state for job in runs.done] == ["done"] * (end == "well")
    run.close()
    runs.close(again)


def test_a_failure_is_told_in_one_line(runs: Runs, caplog: pytest.LogCaptureFixture) -> None:
    run = runs.open(fail="there is no room on the disk")
    run.start("chat", (), runs.feedback)
    wait_until(lambda: not run.running)
    described = described_of(run)
    assert (described["state"], described["error"]) == ("failed", "there is no room on the disk")
    assert "no room" not in caplog.text  # an error may quote the data, and the server's log has none of it
    assert f"the improvement of chat failed; its log is {runs.folder / 'better'}" in caplog.text
    assert not described["resumable"]
    runs.close(run)


def test_a_process_that_cannot_be_recorded_is_stopped(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    run = runs.open(**SLOW)

    def refuse(path: Path, text: str) -> None:
        raise SaveError("no room")

    monkeypatch.setattr("convmodel.server.serving.improvement_file.replace_text", refuse)
    with pytest.raises(SaveError, match="no room"):
        run.start("chat", (), runs.feedback)
    assert not run.running
    runs.close(run)


def test_an_end_that_cannot_be_recorded_is_known_all_the_same(runs: Runs, monkeypatch: pytest.MonkeyPatch) -> None:
    run = runs.open(pause=0.1)
    run.start("chat", (), runs.feedback)

    def refuse(path: Path, text: str) -> None:
        raise SaveError("no room")

    monkeypatch.setattr("convmodel.server.serving.improvement_file.replace_text", refuse)
    wait_until(lambda: not run.running and runs.done)
    assert [job.state for job in runs.done] == ["done"]
    runs.close(run)
