"""The file of feedback."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from convmodel.errors import SaveError
from convmodel.server.serving.feedback_store import FeedbackStore


def test_records_of_several_threads_are_whole_lines(tmp_path: Path) -> None:
    store = FeedbackStore(tmp_path / "feedback.jsonl")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda number: store.add({"number": number, "text": "é" * 5000}), range(40)))
    lines = (tmp_path / "feedback.jsonl").read_text(encoding="utf-8").splitlines()
    assert sorted(json.loads(line)["number"] for line in lines) == list(range(40))


def test_a_file_that_cannot_be_written_is_a_save_error(tmp_path: Path) -> None:
    with pytest.raises(SaveError, match="cannot be written"):
        FeedbackStore(tmp_path).add({})
