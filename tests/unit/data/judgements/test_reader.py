"""Reading judgements: what is used, what is counted, what is refused, each with its place."""

import json
import logging
from pathlib import Path
from typing import Any

import pytest

from convmodel.conversation import Conversation
from convmodel.data.judgements.judgement import Judgement
from convmodel.data.judgements.reader import JudgementReader, holds_judgements, of_other_models
from convmodel.data.reading import decoding
from convmodel.errors import ConfigError, ConversationError

UP = {"context": ["Hi"], "chosen": "Hello", "kind": "thumb"}
DOWN = {"context": ["Hi"], "rejected": "Go", "kind": "thumb"}
EDIT = {"context": ["Hi"], "chosen": "Hello", "rejected": "Go", "kind": "edit"}
TIE = {"context": ["Hi"], "tie": ["a", "b"], "models": ["A", "B"], "kind": "vote"}
AGAIN = {"context": ["Hi"], "chosen": "Hello", "rejected": "Hm", "kind": "regeneration"}
SAME = {"context": ["Hi"], "chosen": "Hello", "rejected": " Hello\n", "kind": "edit"}


def write(path: Path, *rows: Any) -> Path:
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8")
    return path


def test_everything_is_used_or_counted(tmp_path: Path) -> None:
    path = write(
        tmp_path / "f.jsonl", UP, DOWN, EDIT, TIE, AGAIN, SAME, {"prompt": "Hi", "chosen": "a", "rejected": "b"}
    )
    reader = JudgementReader(path)

    judgements = list(reader)

    assert [judgement.kind for judgement in judgements] == ["thumb", "thumb", "edit", "pair"]
    assert [judgement.id for judgement in judgements] == [f"{path}:{line}" for line in (1, 2, 3, 7)]
    summary = reader.summary
    assert summary.kinds == {"thumb": 2, "edit": 1, "pair": 1}
    assert (summary.pairs, summary.liked, summary.disliked) == (2, 1, 1)
    assert (summary.undecided, summary.identical, summary.regenerations, summary.torn) == (1, 1, 1, 0)
    reader_of_one = JudgementReader([{"context": ["Hello"], "chosen": "Hi", "rejected": "No"}])
    list(reader_of_one)
    assert reader_of_one.describe().endswith(": 1 pair")
    assert reader.describe() == "4 judgements (2 thumb, 1 edit, 1 pair): 2 pairs, 1 liked only, 1 disliked only"
    assert reader.left_out() == (
        "left out: 1 undecided between two responses; 1 with two equal responses; 1 regenerations, whose weight is 0"
    )
    assert list(reader) == judgements  # it is read again
    assert reader.summary.judgements == 4
    assert reader.summary.to_dict()["kinds"] == {"thumb": 2, "edit": 1, "pair": 1}


def test_regenerations_count_with_their_weight() -> None:
    reader = JudgementReader([AGAIN, AGAIN | {"weight": 0.5}, UP], regeneration_weight=0.5)

    assert [judgement.weight for judgement in reader] == [0.5, 0.25, 1]
    assert reader.left_out() == ""


@pytest.mark.parametrize("weight", [-1, float("nan"), "much", True])
def test_a_weight_is_a_number_of_at_least_0(weight: Any) -> None:
    with pytest.raises(ConfigError, match="regeneration_weight is"):
        JudgementReader([UP], regeneration_weight=weight)


def test_python_objects_are_read() -> None:
    judgement = Judgement(Conversation(["Hi"]), "assistant", "Hello", id="mine")

    assert [(one.chosen, one.id) for one in JudgementReader([UP, judgement])] == [
        ("Hello", "judgement 1"), ("Hello", "mine")
    ]  # fmt: skip
    assert JudgementReader.of(reader := JudgementReader([UP])) is reader
    assert list(JudgementReader.of([DOWN])) == [
        Judgement(Conversation(["Hi"]), "assistant", rejected="Go", kind="thumb")
    ]


@pytest.mark.parametrize("source", [UP, Judgement(Conversation(["Hi"]), "assistant", "Hello"), 3, b"x"])
def test_one_judgement_is_not_a_list(source: Any) -> None:
    with pytest.raises(ConversationError, match="are a file or a list of"):
        JudgementReader(source)


def test_thumbs_all_one_way_and_one_line_are_read(tmp_path: Path) -> None:
    reader = JudgementReader(write(tmp_path / "f.jsonl", *[DOWN] * 30))
    assert len(list(reader)) == reader.summary.disliked == 30
    assert JudgementReader(write(tmp_path / "one.jsonl", UP)).source == tmp_path / "one.jsonl"
    assert len(list(JudgementReader(tmp_path / "one.jsonl"))) == 1


def test_a_file_that_is_being_written_is_read_without_its_half_line(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = write(tmp_path / "f.jsonl", UP, DOWN)
    path.write_bytes(path.read_bytes() + json.dumps(EDIT).encode()[:40])
    reader = JudgementReader(path)

    with caplog.at_level(logging.WARNING):
        assert len(list(reader)) == 2

    assert reader.summary.torn == 1
    assert "1 half lines of a file that is being written" in reader.left_out()
    assert f"{path}:3 is half a line: left out" in caplog.text


BAD = [
    ("not JSON", r"f.jsonl:2:1: not JSON"),
    ({"context": ["Hi"], "chosen": "a", "kind": "star"}, r"f.jsonl:2: kind is 'star': it must be one of thumb"),
    ({"context": ["Hi"], "chosen": " "}, r"f.jsonl:2: chosen is ' '"),
    ({"chosen": "a", "rejected": "b"}, r"f.jsonl:2: no judgement in an object with chosen, rejected"),
    (
        {"context": ["Hi", "Yes"], "responder": "assistant", "chosen": "a"},
        r"f.jsonl:2: the context ends with a turn of",
    ),
    ({"turns": ["Hi", "Hello"]}, r"f.jsonl:2: a conversation \(turns\) is not a judgement"),
    ({"context": ["Hi"], "tool": 1, "chosen": [{"role": "assistant", "tool_calls": [1]}]}, r"f.jsonl:2: chosen is"),
]


@pytest.mark.parametrize(("row", "message"), BAD)
def test_bad_rows_stop_the_reading_or_are_counted(tmp_path: Path, row: Any, message: str) -> None:
    path = write(tmp_path / "f.jsonl", UP, row, DOWN)

    with pytest.raises(ConversationError, match=message):
        list(JudgementReader(path))

    reader = JudgementReader(path, on_error="skip")
    assert len(list(reader)) == 2
    assert (reader.summary.skipped, reader.problems.count) == (1, 1)
    assert "1 that could not be used, the first because of: " in reader.left_out()


def test_a_huge_line_is_refused_without_being_parsed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "LONGEST_LINE", 100)
    path = write(tmp_path / "f.jsonl", UP, UP | {"chosen": "a" * 200}, DOWN)

    with pytest.raises(ConversationError, match=r"f.jsonl:2: the line is longer than"):
        list(JudgementReader(path))
    assert len(list(JudgementReader(path, on_error="skip"))) == 2


@pytest.mark.parametrize(
    ("rows", "reason"),
    [
        ([], r"has no judgement that can be used: write one per line, {\"context\""),
        ([TIE], r"\(left out: 1 undecided between two responses\)"),
        ([SAME, AGAIN], r"\(left out: 1 with two equal responses; 1 regenerations, whose weight is 0\)"),
        (['{"context"'], r"1 half lines"),
    ],
)
def test_a_file_without_a_judgement_is_an_error(tmp_path: Path, rows: list[Any], reason: str) -> None:
    with pytest.raises(ConversationError, match=reason):
        list(JudgementReader(write(tmp_path / "f.jsonl", *rows)))


def test_an_empty_list_is_an_error() -> None:
    with pytest.raises(ConversationError, match="the list has no judgement that can be used"):
        list(JudgementReader([]))


def test_the_fingerprint_is_that_of_content_and_settings(tmp_path: Path) -> None:
    path = write(tmp_path / "f.jsonl", UP)
    first = JudgementReader(path).fingerprint()

    assert first == JudgementReader(path).fingerprint()
    weights = (0.5, 0.1234567, 0.1234568)
    assert len({first, *(JudgementReader(path, regeneration_weight=weight).fingerprint() for weight in weights)}) == 4
    write(path, DOWN)
    assert first != JudgementReader(path).fingerprint()
    assert JudgementReader([UP]).fingerprint() is None


def test_what_nobody_can_use_is_counted_by_name() -> None:
    row = {"input": {"messages": [{"role": "user", "content": "Hi"}], "tools": [{}]},
           "preferred_output": [{"role": "assistant", "content": "a"}], "non_preferred_output": []}  # fmt: skip
    reader = JudgementReader([row | {"non_preferred_output": None}])

    assert len(list(reader)) == 1
    assert reader.left_out() == "tools of 1 judgements was left out: only text is used"


def test_judgements_of_other_models_are_counted() -> None:
    judgements = JudgementReader(
        [UP, UP | {"fingerprint": "a"}, UP | {"fingerprint": "b"}, DOWN | {"fingerprint": "b"}]
    )

    assert of_other_models(judgements, "a") == 2


@pytest.mark.parametrize(
    ("rows", "expected"),
    [
        ([UP], True),
        (["not JSON", DOWN], True),
        ([{"messages": [{"role": "user", "content": "Hi"}], "rating": "up"}], True),
        ([{"turns": ["Hi"]}, UP], False),
        ([], False),
    ],
)
def test_a_file_of_judgements_is_recognised_by_its_first_row(tmp_path: Path, rows: list[Any], expected: bool) -> None:
    assert holds_judgements(write(tmp_path / "f.jsonl", *rows)) is expected


@pytest.mark.parametrize("name", ["nowhere.jsonl", "owner/name", "-", "\0"])
def test_what_is_no_file_holds_no_judgements(name: str) -> None:
    assert not holds_judgements(name)


def test_votes_that_compare_an_improved_model_are_left_out_and_counted() -> None:
    line = {"context": ["Hello"], "chosen": "Hi", "rejected": "Go", "kind": "vote"}
    reader = JudgementReader([line, line | {"comparison": True}])

    assert len([*reader]) == 1
    assert reader.left_out() == "left out: 1 votes that compare an improved model"
