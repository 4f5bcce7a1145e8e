"""Half lines: told from malformed ones, and left out of rows."""

import json
from pathlib import Path

import pytest

from convmodel.data.judgements.torn_lines import is_torn, without_torn
from convmodel.data.reading.rows import Row, file_rows

WHOLE = {"context": [{"role": "user", "content": 'A "🙂" \\ é\n'}], "weight": -1.5e3, "tie": [True, None, False]}


@pytest.mark.parametrize("ascii_only", [False, True])
def test_a_line_that_is_cut_anywhere_is_torn(ascii_only: bool) -> None:
    line = json.dumps(WHOLE, ensure_ascii=ascii_only).encode()

    whole = [end for end in range(2, len(line)) if not is_torn(line[:end])]

    assert whole == []
    assert is_torn(line[:-1] + b"\n")


@pytest.mark.parametrize(
    "line",
    [
        b"not JSON",
        b"{",
        b'["context", ',
        b'{"context": ["Hi"] "chosen": "a"}',
        b'{"context": ["Hi"],}',
        b'{"context": nothing}',
        b'{"context": "\xff\xfe"}',
        b'{"context": "\\x"}',
    ],
)
def test_a_malformed_line_is_not_torn(line: bytes) -> None:
    assert not is_torn(line)


def test_half_lines_are_left_out_wherever_they_are(tmp_path: Path) -> None:
    path = tmp_path / "feedback.jsonl"
    path.write_text('{"a": 1}\n{"a": \nnot JSON\n\n{"a": 2}\n{"b": "x', encoding="utf-8")
    torn: list[str] = []

    rows = list(without_torn(file_rows(path), torn))

    assert torn == [f"{path}:2", f"{path}:6"]
    assert [row.value for row in rows] == [{"a": 1}, None, {"a": 2}]
    assert rows[1].place == f"{path}:3:1"


def test_each_file_of_a_folder_has_its_own_lines(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / f"{name}.jsonl").write_text('{"a": 1}\n{"a"', encoding="utf-8")
    torn: list[str] = []

    assert len(list(without_torn(file_rows(tmp_path), torn))) == 2
    assert torn == [f"{tmp_path / name}.jsonl:2" for name in ("a", "b")]


def test_a_line_that_was_completed_meanwhile_was_torn_when_it_was_read(tmp_path: Path) -> None:
    path = tmp_path / "feedback.jsonl"
    path.write_text('{"a": 1}\n', encoding="utf-8")
    torn: list[str] = []

    assert list(without_torn([Row(f"{path}:1:4", error="not JSON")], torn)) == []
    assert torn == [f"{path}:1"]


def test_what_has_no_line_of_a_file_stays_an_error() -> None:
    rows = [Row("-:3:1", error="not JSON"), Row("owner/name: row 3", error="odd"), Row("", error="no file")]
    torn: list[str] = []

    assert list(without_torn(rows, torn)) == rows
    assert not torn
