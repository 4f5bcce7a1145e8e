"""samples.jsonl: what a fit appends, what a resumed one removes, and what is not its file."""

import json
from pathlib import Path
from typing import Any

import pytest

from convmodel.errors import SaveError
from convmodel.training.samples_file import SAMPLES_FILE, SamplesFile, read_samples

HELLO = {"context": [{"role": "user", "content": "Hello\u2028"}], "expected": "Hi", "response": "友達"}
YES = {"context": [{"role": "user", "content": "Yes?"}], "expected": "No", "response": "Why?"}


def begin(folder: Path, step: int = 0, *, written: bool = True) -> SamplesFile:
    file = SamplesFile(folder)
    file.begin(step, written=written)
    return file


def steps(folder: Path) -> list[int]:
    return [record["step"] for record in read_samples(folder)]


def filled(folder: Path, *at: int) -> Path:
    file = begin(folder)
    for step in at:
        file.append(step, [HELLO, YES])
    return folder / SAMPLES_FILE


def test_each_response_is_a_line(tmp_path: Path) -> None:
    path = filled(tmp_path, 0, 120)

    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").split("\n") if line]
    assert lines == [{"step": step} | record for step in (0, 120) for record in (HELLO, YES)]
    assert list(lines[0]) == ["step", "context", "expected", "response"]
    assert read_samples(tmp_path) == lines


def test_without_a_file_there_is_nothing_to_read(tmp_path: Path) -> None:
    assert read_samples(tmp_path) == []
    assert begin(tmp_path).last == -1
    assert not [*tmp_path.iterdir()]


def test_a_new_fit_begins_without_the_lines_of_an_earlier_one(tmp_path: Path) -> None:
    path = filled(tmp_path, 0, 6)

    assert begin(tmp_path, written=False).last == -1  # also one that writes none
    assert not path.exists()


def test_a_resumed_fit_keeps_the_lines_up_to_its_checkpoint(tmp_path: Path) -> None:
    path = filled(tmp_path, 0, 6)
    kept = path.read_bytes()
    filled_later = begin(tmp_path, 6)
    filled_later.append(12, [HELLO])
    with path.open("a", encoding="utf-8") as file:
        file.write('{"step": 6, "context": [{"role": "us')  # killed in the middle of a line

    assert read_samples(tmp_path)[-1]["step"] == 12
    assert begin(tmp_path, 8).last == 6
    assert path.read_bytes() == kept
    assert [each.name for each in tmp_path.iterdir()] == [SAMPLES_FILE]


def test_a_fit_that_resumes_before_the_first_responses_begins_without_lines(tmp_path: Path) -> None:
    path = filled(tmp_path, 6)

    assert begin(tmp_path, 4).last == -1
    assert not path.exists()


@pytest.mark.parametrize(
    "line", ["\0\0", "[]", '{"step": 6}', json.dumps({"step": "6"} | HELLO), json.dumps({"step": True} | HELLO)]
)
def test_a_damaged_line_is_skipped(tmp_path: Path, line: str) -> None:
    path = filled(tmp_path, 0)
    path.write_text(line + "\n" + path.read_text(encoding="utf-8"), encoding="utf-8")
    assert steps(tmp_path) == [0, 0]

    begin(tmp_path, 2)

    assert line not in path.read_text(encoding="utf-8")
    assert steps(tmp_path) == [0, 0]


def test_a_file_of_other_content_is_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / SAMPLES_FILE
    path.write_text('["Hello", "Hi"]\n', encoding="utf-8")

    with pytest.raises(SaveError, match=r"samples\.jsonl was not written by a fit: move it, or give another output_d"):
        begin(tmp_path)
    begin(tmp_path, written=False)
    assert path.read_text(encoding="utf-8") == '["Hello", "Hi"]\n'


def test_a_file_that_cannot_be_read_or_written_is_named(tmp_path: Path) -> None:
    (tmp_path / SAMPLES_FILE).mkdir()
    records: list[dict[str, Any]] = [HELLO]

    with pytest.raises(SaveError, match=r"samples\.jsonl cannot be read: Is a directory; move it, or give"):
        begin(tmp_path)
    with pytest.raises(SaveError, match=r"samples\.jsonl cannot be written: Is a directory; make room and resume"):
        SamplesFile(tmp_path).append(6, records)
