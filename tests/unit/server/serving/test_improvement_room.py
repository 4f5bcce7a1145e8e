"""Room for one more version: what is measured is a stand-in."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from convmodel.server.serving import improvement_room
from convmodel.server.serving.improvement_room import missing_memory, missing_room

MIB = 2**20
MODEL: Any = SimpleNamespace(parameters=lambda: [SimpleNamespace(nbytes=60 * MIB), SimpleNamespace(nbytes=40 * MIB)])


def test_memory_for_a_second_model_is_required(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(improvement_room, "available_bytes", lambda hf_model: 150 * MIB)
    assert missing_memory(MODEL, seconds=0) == "a second model needs 100 MiB of memory, and 50 MiB are free"
    for available in (200 * MIB, None):
        monkeypatch.setattr(improvement_room, "available_bytes", lambda hf_model, available=available: available)
        assert missing_memory(MODEL, seconds=0) == ""


def test_memory_that_is_being_freed_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    measured = [300 * MIB, 150 * MIB, 150 * MIB]
    monkeypatch.setattr(improvement_room, "available_bytes", lambda hf_model: measured.pop())
    assert missing_memory(MODEL) == ""
    assert not measured


def test_room_on_the_disk_for_twice_the_model_is_required(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for free, missing in ((200 * MIB, False), (200 * MIB - 1, True)):
        usage = SimpleNamespace(free=free)
        monkeypatch.setattr(improvement_room.shutil, "disk_usage", lambda folder, usage=usage: usage)
        assert bool(missing_room(tmp_path, MODEL)) == missing
    assert "needs 200 MiB on the server's disk, and 200 MiB are free: delete folders" in missing_room(tmp_path, MODEL)
