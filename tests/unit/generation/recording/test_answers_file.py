"""Recorded answers on the disk: a kill, a full disk or half a line loses none, and those of two runs do not mix."""

import errno
import json
import multiprocessing
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from convmodel.conversation import Conversation
from convmodel.data.reading.reader import read_conversations
from convmodel.errors import ConfigError, SaveError
from convmodel.generation.recording import answers_file
from convmodel.generation.recording.answers_file import (
    CUT,
    RECORDED,
    REFUSED,
    Answer,
    Journal,
    RecordingSummary,
    is_usable,
    journal_path,
    open_journal,
    write_answers,
)
from convmodel.generation.recording.contexts import contexts_of

FACTS = {"contexts": "f00", "model": "m"}
CONTEXTS = [context for text in ("Hi", "Well?", "Bye") for context in contexts_of(Conversation([text], id=text))]


@contextmanager
def opened(path: Path, facts: dict[str, Any] = FACTS, **options: Any) -> Iterator[Journal]:
    with open_journal(path, facts, **options) as journal:
        yield journal


def test_answers_in_any_order_are_written_in_the_order_of_their_contexts(tmp_path: Path) -> None:
    path = tmp_path / "new" / "data.jsonl"
    with opened(path) as journal:
        journal.add(2, Answer("See you"))
        journal.add(0, Answer("Hello"))
        assert write_answers(path, CONTEXTS, journal) == 2
        assert [one.turns for one in read_conversations(str(path))] == [("Hi", "Hello"), ("Bye", "See you")]
        journal.add(1, Answer("Fine"))
        assert write_answers(path, CONTEXTS, journal) == 3
    records = [json.loads(line) for line in path.read_text().splitlines()]
    assert records[0] == {
        "id": "Hi", "turns": ["Hi", "Hello"], "speakers": ["user", "assistant"], "weights": [0.0, 1.0]
    }  # fmt: skip
    assert {path.name for path in path.parent.iterdir()} == {"data.jsonl", "data.jsonl.recording"}


def test_only_whole_answers_become_training_data(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    with opened(path) as journal:
        journal.add(0, Answer("Hel", CUT, max_tokens=1))
        journal.add(1, Answer("", REFUSED, "the content filter"))
        journal.add(2, Answer("See you"))
        assert write_answers(path, CONTEXTS, journal) == 1
        assert write_answers(path, CONTEXTS, journal, keep_cut=True) == 2


def test_a_killed_recording_is_resumed_after_its_last_whole_line(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    with opened(path) as journal:
        for number, text in enumerate(("Hello", "Fine", "See you")):
            journal.add(number, Answer(text, prompt_tokens=number))
    whole = journal_path(path).read_bytes()
    lines = whole.splitlines(keepends=True)
    for end in range(len(lines[0]), len(whole) + 1, 7):  # killed anywhere after the facts
        journal_path(path).write_bytes(whole[:end])
        with opened(path) as journal:
            numbers = [number for number in range(3) if number in journal]
            assert numbers == [*range(whole[:end].count(b"\n") - 1)]
            for number, text in enumerate(("Hello", "Fine", "See you")):
                if number in journal:
                    assert journal[number] == Answer(text, prompt_tokens=number)
                else:
                    journal.add(number, Answer(text, prompt_tokens=number))
        assert journal_path(path).read_bytes() == whole


@pytest.mark.parametrize("start", [b"", b'{"contexts": "f', b'{"contexts"\0\0\0'])
def test_a_recording_that_was_killed_before_its_first_line_begins(tmp_path: Path, start: bytes) -> None:
    path = tmp_path / "data.jsonl"
    journal_path(path).write_bytes(start)
    with opened(path) as journal:
        journal.add(0, Answer("Hello"))
    assert json.loads(journal_path(path).read_text().splitlines()[0]) == FACTS


def test_a_later_answer_replaces_an_earlier_one(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    with opened(path) as journal:
        journal.add(0, Answer("Hel", CUT, max_tokens=1))
        journal.add(0, Answer("Hello", max_tokens=9))
        assert journal[0].text == "Hello"
    with opened(path) as journal:
        assert journal[0] == Answer("Hello", max_tokens=9)


class FullDisk:
    """A file on a disk that becomes full in the middle of a line."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def write(self, data: bytes) -> int:
        self._file.write(data[:7])
        raise OSError(errno.ENOSPC, "No space left on device")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


def test_a_full_disk_loses_only_the_answer_that_did_not_fit(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    with opened(path) as journal:
        journal.add(0, Answer("Hello"))
        before, file = journal_path(path).read_bytes(), journal._file
        journal._file = FullDisk(file)  # type: ignore[assignment]
        with pytest.raises(SaveError, match=r"recording cannot be written: No space left.*the same command resumes"):
            journal.add(1, Answer("Fine"))
        assert 1 not in journal
        journal._file = file
        journal.add(1, Answer("Fine"))
    assert journal_path(path).read_bytes().startswith(before)
    with opened(path) as journal:
        assert (journal[0].text, journal[1].text) == ("Hello", "Fine")


def test_a_file_that_cannot_be_written_leaves_the_earlier_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "data.jsonl"
    with opened(path) as journal:
        journal.add(0, Answer("Hello"))
        write_answers(path, CONTEXTS, journal)
        earlier = path.read_bytes()
        journal.add(1, Answer("Fine"))

        def fail(*_: Any) -> int:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(answers_file, "write_jsonl", fail)
        with pytest.raises(SaveError, match="No space left"):
            write_answers(path, CONTEXTS, journal)
    assert path.read_bytes() == earlier
    assert journal_path(path).exists()


def test_other_settings_do_not_resume(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    with opened(path) as journal:
        journal.add(0, Answer("Hello"))
    with pytest.raises(ConfigError, match=r"other settings \(model: m there, other here\): --overwrite starts over"):
        opened(path, FACTS | {"model": "other"}).__enter__()
    with pytest.raises(ConfigError, match=r"other settings \(the contexts have changed\)"):
        opened(path, FACTS | {"contexts": "f01"}).__enter__()
    with pytest.raises(ConfigError, match="its contexts cannot be read again: --overwrite starts over"):
        opened(path, FACTS | {"contexts": None}).__enter__()
    with opened(path, FACTS | {"model": "other"}, overwrite=True) as journal:
        assert 0 not in journal
        journal.add(1, Answer("Fine"))
    with opened(path, FACTS | {"model": "other"}) as journal:
        assert (0 in journal, 1 in journal) == (False, True)


def test_earlier_answers_stay_until_there_is_one_to_replace_them(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    with opened(path) as journal:
        journal.add(0, Answer("Hello"))
    before = journal_path(path).read_bytes()
    with opened(path, FACTS | {"model": "other"}, overwrite=True) as journal:
        assert len(journal) == 0
    assert journal_path(path).read_bytes() == before
    with opened(path, FACTS | {"model": "other"}, overwrite=True) as journal:
        journal.add(1, Answer("Fine"))
    lines = journal_path(path).read_text().splitlines()
    assert json.loads(lines[0])["model"] == "other"
    assert [json.loads(line)["number"] for line in lines[1:]] == [1]


@pytest.mark.parametrize(
    "damaged", [b"\0" * 20, b'{"number": 1', b"[1]", b'{"number": 1, "text": "Hi"}', b'{"number": "1"}', b"\xff"]
)
def test_a_damaged_line_loses_no_other_answer(tmp_path: Path, damaged: bytes) -> None:
    path = tmp_path / "data.jsonl"
    with opened(path) as journal:
        for number in range(3):
            journal.add(number, Answer(f"{number}"))
    lines = journal_path(path).read_bytes().splitlines(keepends=True)
    journal_path(path).write_bytes(b"".join([*lines[:2], damaged + b"\n", *lines[3:]]))
    with opened(path) as journal:
        assert [number for number in range(3) if number in journal] == [0, 2]
        journal.add(1, Answer("again"))
        assert [journal[number].text for number in range(3)] == ["0", "again", "2"]


def test_answers_of_two_models_do_not_mix(tmp_path: Path) -> None:
    path, facts = tmp_path / "data.jsonl", FACTS | {"model": None}
    with opened(path, facts) as journal:
        journal.bind("m")
        journal.add(0, Answer("Hello"))
    with opened(path, facts) as journal:
        journal.bind("m")
        with pytest.raises(ConfigError, match="has answers of the model m, and the server now has other: --overwrite"):
            journal.bind("other")
    with opened(path, FACTS) as journal:  # the same, by name
        assert 0 in journal


def test_what_would_be_read_as_contexts_or_not_as_lines_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(SaveError, match="is in the folder of the contexts"):
        opened(tmp_path / "sub" / "data.jsonl", source=tmp_path).__enter__()
    for name in ("data.jsonl.gz", "data.csv", "data"):
        with pytest.raises(SaveError, match=r"give an --output that ends with \.jsonl"):
            opened(tmp_path / name).__enter__()
    assert [*tmp_path.iterdir()] == []


def test_a_recording_without_answers_leaves_nothing_and_binds_no_later_one(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    with opened(path):
        assert journal_path(path).exists()
    assert not journal_path(path).exists()
    journal_path(path).write_text(json.dumps(FACTS) + "\n")  # killed before the first answer
    with opened(path, FACTS | {"model": "other"}) as journal:
        journal.add(0, Answer("Hello"))
    assert json.loads(journal_path(path).read_text().splitlines()[0]) == FACTS | {"model": "other"}


def test_files_of_others_are_not_replaced(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text("mine")
    with pytest.raises(SaveError, match="already exists: give another --output, or --overwrite"):
        opened(path).__enter__()
    with pytest.raises(SaveError, match="holds the contexts: give another --output"):
        opened(path, source=str(path), overwrite=True).__enter__()
    with pytest.raises(SaveError, match="is a folder: give a file"):
        opened(tmp_path).__enter__()
    assert path.read_text() == "mine"
    other = tmp_path / "other.jsonl"
    journal_path(other).write_text("one line\nof somebody else\n")
    with pytest.raises(SaveError, match="was not written by `convmodel record`"):
        opened(other, overwrite=True).__enter__()
    assert journal_path(other).read_text() == "one line\nof somebody else\n"


def _record_elsewhere(path: Path, ready: Any, done: Any) -> None:
    with opened(path):
        ready.set()
        done.wait(30)


def test_two_processes_do_not_record_into_one_file(tmp_path: Path) -> None:
    path, context = tmp_path / "data.jsonl", multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()
    process = context.Process(target=_record_elsewhere, args=(path, ready, done))
    process.start()
    try:
        assert ready.wait(30)
        with pytest.raises(SaveError, match="is being recorded by another process"):
            opened(path).__enter__()
    finally:
        done.set()
        process.join(30)


@pytest.mark.parametrize(
    ("outcome", "then", "now", "is_final"),
    [
        (RECORDED, 5, 9, True),
        (CUT, 5, 5, True),
        (CUT, 5, 4, True),
        (CUT, 5, 9, False),
        (CUT, None, 9, False),
        (CUT, 5, None, False),
        (CUT, None, None, True),
        (REFUSED, None, 9, True),
    ],
)
def test_what_is_asked_again(outcome: str, then: int | None, now: int | None, is_final: bool) -> None:
    assert Answer("", outcome, max_tokens=then).is_final(now) is is_final


def test_the_summary_counts_outcomes_and_keeps_the_first_reason() -> None:
    summary = RecordingSummary(contexts=3)
    for reason in ("the content filter", "I cannot."):
        summary.add(Answer("", REFUSED, reason, prompt_tokens=2))
    summary.add(Answer("Hello", response_tokens=3))

    assert summary.to_dict()["outcomes"] == {REFUSED: 2, RECORDED: 1}
    assert (summary.reasons, summary.prompt_tokens, summary.response_tokens) == ({REFUSED: "the content filter"}, 4, 3)


@pytest.mark.parametrize(
    ("text", "usable"), [("Hi", True), (" Hi\n", True), ("", False), (" \n", False), ("\ud800", False)]
)
def test_what_can_be_a_turn(text: str, usable: bool) -> None:
    assert is_usable(text) is usable
