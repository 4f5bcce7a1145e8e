"""Writing: what is written reads back as it was."""

import json
from datetime import datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convmodel.conversation import Conversation
from convmodel.data.reading.reader import read_conversations
from convmodel.data.reading.writing import to_record, write_jsonl

texts = st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20).filter(str.strip)


@st.composite
def conversations(draw: st.DrawFn) -> Conversation:
    """Any conversation that can be."""
    turns = draw(st.lists(texts, min_size=1, max_size=5))
    speakers = draw(st.none() | st.lists(texts, min_size=len(turns), max_size=len(turns)))
    name = draw(texts | st.just(""))
    time = draw(st.none() | st.datetimes())
    pinned = draw(st.integers(0, len(turns)))
    numbers = st.integers(0, 2) | st.floats(0, allow_infinity=False)
    weights = draw(st.none() | st.lists(numbers, min_size=len(turns), max_size=len(turns)))
    return Conversation(turns, speakers, pinned=pinned, id=name, started_at=time, weights=weights)


@settings(max_examples=60)
@given(st.lists(conversations(), min_size=1, max_size=4))
def test_what_is_written_reads_back(tmp_path_factory: pytest.TempPathFactory, written: list[Conversation]) -> None:
    path = tmp_path_factory.getbasetemp() / "written.jsonl"

    assert write_jsonl(path, written) == len(written)
    read = read_conversations(path)

    assert read == written
    assert [(one.id, one.started_at) for one in read] == [(one.id, one.started_at) for one in written]


def test_a_record_has_only_what_is_known() -> None:
    assert to_record(Conversation(["Hi"])) == {"turns": ["Hi"], "speakers": ["user"]}
    began = datetime(2024, 1, 31, 21, 41)
    whole = Conversation(["Be kind.", "Hi"], ["system", "Ann"], 1, "x", began, [1, 0.5])
    assert to_record(whole) == {
        "id": "x",
        "turns": ["Be kind.", "Hi"],
        "speakers": ["system", "Ann"],
        "pinned": 1,
        "weights": [1.0, 0.5],
        "started_at": "2024-01-31T21:41:00",
    }


def test_each_conversation_is_a_line_of_utf8(tmp_path: Path) -> None:
    path = tmp_path / "talks.jsonl"

    assert write_jsonl(path, (Conversation([turn]) for turn in ["caf\u00e9\u2028\n", "\U0001f355"])) == 2

    lines = path.read_bytes().split(b"\n")
    assert [json.loads(line)["turns"] for line in lines[:2]] == [["caf\u00e9\u2028\n"], ["\U0001f355"]]
    assert "caf\u00e9\u2028".encode() in lines[0]
    assert lines[2:] == [b""]


def test_nothing_is_an_empty_file(tmp_path: Path) -> None:
    assert write_jsonl(tmp_path / "talks.jsonl", []) == 0
    assert (tmp_path / "talks.jsonl").read_bytes() == b""
