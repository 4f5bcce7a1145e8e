"""Whether a file is JSON lines; `test_server_files` has every kind of file that is not."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convmodel.server.errors import ApiError
from convmodel.server.fine_tuning.json_lines_check import check_json_lines
from convmodel.server.settings import MAX_BODY

VALUES = st.text() | st.integers() | st.none() | st.lists(st.floats())
OBJECTS = st.lists(st.dictionaries(st.text(), VALUES), min_size=1)


@pytest.mark.slow
@given(objects=OBJECTS, end=st.sampled_from(["\n", "\r\n", "\n\n"]), data=st.data())
def test_objects_are_counted_and_a_broken_line_is_named(
    objects: list[dict[str, object]], end: str, data: st.DataObject, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("lines") / "file.jsonl"
    lines = [json.dumps(value) for value in objects]
    path.write_text(end.join(lines), newline="")
    assert check_json_lines(path) == len(objects)
    broken = data.draw(st.integers(0, len(lines) - 1))
    lines[broken] = lines[broken][:-1] or "x"
    path.write_text(end.join(lines), newline="")
    number = broken * len(end.replace("\r\n", "\n")) + 1
    with pytest.raises(ApiError, match=f"^line {number} is not valid JSON"):
        check_json_lines(path)


def test_a_line_may_be_as_long_as_a_request(tmp_path: Path) -> None:
    line = b'{"a": "' + b"x" * (MAX_BODY - 10) + b'"}\n'
    assert len(line) == MAX_BODY
    (tmp_path / "file").write_bytes(line * 2)
    assert check_json_lines(tmp_path / "file") == 2
    (tmp_path / "file").write_bytes(line[:-1] + b" \n")
    with pytest.raises(ApiError, match="line 1 is longer than 1,048,576 bytes"):
        check_json_lines(tmp_path / "file")
