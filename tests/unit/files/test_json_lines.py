"""JSON lines: appended whole or not at all."""

import errno
import json
import os
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from convmodel.errors import SaveError
from convmodel.files.json_lines import append_line, require_appendable, to_line, write_line


def test_a_missing_file_is_created_and_grows_by_a_line_for_each_record(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"

    append_line(path, {"turns": ["Grüße", "a\nb\u2028c"]})
    append_line(path, [1])

    first, second, end = path.read_bytes().split(b"\n")
    assert json.loads(first) == {"turns": ["Grüße", "a\nb\u2028c"]}
    assert "Grüße".encode() in first
    assert (second, end) == (b"[1]", b"")


@pytest.mark.parametrize("torn", ['{"half', '{"whole": 1}'])
def test_a_last_line_without_a_newline_keeps_its_line(tmp_path: Path, torn: str) -> None:
    path = tmp_path / "votes.jsonl"
    path.write_text(f"[0]\n{torn}", encoding="utf-8")

    append_line(path, [1])

    assert path.read_text(encoding="utf-8") == f"[0]\n{torn}\n[1]\n"


def test_a_line_that_does_not_fit_leaves_the_file_as_it_was(tmp_path: Path) -> None:
    resource: Any = pytest.importorskip("resource")
    path = tmp_path / "votes.jsonl"
    append_line(path, "before")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 16, hard))  # a file that gets longer takes a part of the line
    try:
        with pytest.raises(SaveError, match=r"votes.jsonl cannot be written: File too large; make room"):
            append_line(path, "x" * (1 << 17), fix="make room")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))

    assert path.read_bytes() == b'"before"\n'


def test_a_line_that_cannot_be_synced_leaves_the_file_as_it_was(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "votes.jsonl"
    append_line(path, "before", sync=True)
    monkeypatch.setattr("os.fsync", Mock(side_effect=OSError(errno.ENOSPC, "No space left on device")))
    with pytest.raises(SaveError, match="No space left on device"):
        append_line(path, "after", sync=True)
    assert path.read_bytes() == b'"before"\n'


def test_a_device_is_not_synced() -> None:
    append_line("/dev/null", [1], sync=True)


def test_lines_of_several_processes_stay_whole(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    children = []
    for number in range(4):
        if not (child := os.fork()):
            for _ in range(50):
                append_line(path, [number] * 5000)
            os._exit(0)
        children.append(child)
    assert {os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children} == {0}
    assert len([json.loads(line) for line in path.read_bytes().splitlines()]) == 200


def test_a_file_that_cannot_be_opened_is_named_with_the_fix(tmp_path: Path) -> None:
    with pytest.raises(SaveError, match=f"{tmp_path} cannot be written: Is a directory; choose another --votes"):
        append_line(tmp_path, [1], fix="choose another --votes")


@pytest.mark.parametrize("sync", [True, False])
def test_lines_of_an_open_file_are_written_in_order(tmp_path: Path, *, sync: bool) -> None:
    path = tmp_path / "responses.jsonl"

    with path.open("xb") as file:
        write_line(file, {"id": 1})
        write_line(file, {"id": 2}, sync=sync)
        assert path.read_bytes() == (b'{"id": 1}\n{"id": 2}\n' if sync else b"")

    assert path.read_bytes() == b'{"id": 1}\n{"id": 2}\n'


def test_options_of_json_are_passed_on() -> None:
    assert to_line({"at": Path("ü")}, default=str, ensure_ascii=True) == b'{"at": "\\u00fc"}\n'


def test_a_check_creates_the_file_and_changes_none(tmp_path: Path) -> None:
    path = tmp_path / "votes.jsonl"
    for content in ("", '{"torn'):
        path.write_text(content, encoding="utf-8") if content else None
        require_appendable(path)
        assert path.read_text(encoding="utf-8") == content
    with pytest.raises(SaveError, match="cannot be written: No such file or directory; choose another file"):
        require_appendable(tmp_path / "none" / "votes.jsonl")
