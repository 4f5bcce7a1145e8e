"""Reading: every shape a conversation may have, and errors that tell the file, the line and the column."""

import io
import json
import math
import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from datasets import Dataset

from convmodel.conversation import Conversation
from convmodel.data.reading.columns import Columns
from convmodel.data.reading.reader import ConversationReader, read_conversations
from convmodel.errors import ConversationError

TEXTS = ["Hi", "Hello", "Bye", "See you"]
MESSAGES = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]


@pytest.fixture
def write(tmp_path: Path) -> Callable[[str | bytes], Path]:
    """Writes a file of conversations."""

    def write(content: str | bytes) -> Path:
        path = tmp_path / "talks.jsonl"
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    return write


SHAPES: list[tuple[Any, Conversation]] = [
    (["Hi", "Hello"], Conversation(["Hi", "Hello"])),
    ({"turns": ["Hi", "Hello"]}, Conversation(["Hi", "Hello"])),
    ({"turns": ["Hi", "Yes"], "speakers": ["Ann", "Bob"]}, Conversation(["Hi", "Yes"], ["Ann", "Bob"])),
    ({"turns": ["Hi"], "speakers": None}, Conversation(["Hi"])),
    ({"turns": ["Be kind.", "Hi"], "pinned": 1}, Conversation(["Be kind.", "Hi"], pinned=1)),
    ({"turns": ["Hi"], "id": "talk-7"}, Conversation(["Hi"], id="talk-7")),
    ({"turns": ["Hi"], "id": 0}, Conversation(["Hi"], id="0")),
    ({"turns": ["Hi"], "source": "a field of the caller's"}, Conversation(["Hi"])),
    ({"messages": MESSAGES}, Conversation(["Be kind.", "Hi"], ["system", "user"], pinned=1)),
    ({"messages": MESSAGES, "id": "m"}, Conversation(["Be kind.", "Hi"], ["system", "user"], pinned=1, id="m")),
    (MESSAGES, Conversation(["Be kind.", "Hi"], ["system", "user"], pinned=1)),
]


@pytest.mark.parametrize(("shape", "expected"), SHAPES)
def test_a_line_may_have_any_of_the_shapes(write: Callable[[str], Path], shape: Any, expected: Conversation) -> None:
    assert read_conversations(write(json.dumps(shape))) == [expected]


@pytest.mark.parametrize(("shape", "expected"), SHAPES)
def test_an_object_may_have_any_of_the_shapes(shape: Any, expected: Conversation) -> None:
    assert read_conversations([shape]) == [expected]


def test_shapes_may_be_mixed_and_keep_their_order(write: Callable[[str], Path]) -> None:
    path = write("".join(json.dumps(shape) + "\n" for shape, _ in SHAPES))

    assert read_conversations(path) == [expected for _, expected in SHAPES]
    assert read_conversations(str(path)) == read_conversations(path)


@pytest.mark.parametrize(
    "source",
    [
        [["Hi"], Conversation(["Yes"])],
        (["Hi"], ["Yes"]),
        (turns for turns in (["Hi"], ("Yes",))),
        iter([["Hi"], {"turns": ("Yes",)}]),
        {"a": ["Hi"], "b": ["Yes"]}.values(),
    ],
    ids=["list", "tuple", "generator", "iterator", "view"],
)
def test_any_iterable_of_conversations_is_read(source: Any) -> None:
    assert read_conversations(source) == [Conversation(["Hi"]), Conversation(["Yes"])]


@pytest.mark.parametrize(
    "content",
    [
        b'\xef\xbb\xbf["Hi"]\n["Yes"]\n',
        b'["Hi"]\r\n["Yes"]\r\n',
        b'\n["Hi"]\n\n \t\r\n["Yes"]\n\n',
        b'["Hi"]\n["Yes"]',
        b'\xef\xbb\xbf\n["Hi"]\n["Yes"]\n',
    ],
    ids=["byte-order mark", "CRLF", "blank lines", "no last newline", "byte-order mark on a blank line"],
)
def test_how_an_editor_saved_the_file_does_not_matter(write: Callable[[bytes], Path], content: bytes) -> None:
    assert read_conversations(write(content)) == [Conversation(["Hi"]), Conversation(["Yes"])]


def test_line_separators_inside_a_turn_do_not_end_the_line(write: Callable[[str], Path]) -> None:
    turn = "one\u2028two\x85three\x0cfour"

    [conversation] = read_conversations(write(json.dumps([turn], ensure_ascii=False)))

    assert conversation.turns == (turn,)


@pytest.mark.parametrize(
    ("line", "column", "message"),
    [
        ('["Hi" "Hello"]', 7, "not JSON"),
        ("Hello there", 1, "not JSON"),
        ('["Hi"] ["Yes"]', 8, "not JSON"),
        ("{'turns': ['Hi']}", 2, "not JSON"),
        ('["Hi",', 7, "not JSON"),
        ('["Hi", "Hello', 8, "not JSON"),
    ],
)
@pytest.mark.parametrize("newline", ["", "\n", "\r\n"], ids=["last", "LF", "CRLF"])
def test_bad_json_is_located_by_file_line_and_column(
    write: Callable[[str], Path], line: str, column: int, message: str, newline: str
) -> None:
    path = write('["fine"]\n\n' + line + newline)

    with pytest.raises(ConversationError, match=f"^{re.escape(str(path))}:3:{column}: {message}") as caught:
        read_conversations(path)

    assert '{"turns": [...]}' in str(caught.value)  # the cure: how a line should look


@pytest.mark.parametrize(
    ("line", "column"),
    [(b'["caf\xe9"]', 6), (b"\xff\xfe[\x00]\x00", 1), (b'["\xf0\x9f\x98"]', 3)],
    ids=["Latin-1", "UTF-16", "half an emoji"],
)
def test_bad_utf8_is_located_by_file_line_and_column(write: Callable[[bytes], Path], line: bytes, column: int) -> None:
    path = write(b'["fine"]\n' + line + b"\n")

    with pytest.raises(ConversationError, match=f"^{re.escape(str(path))}:2:{column}: not UTF-8: save the file as"):
        read_conversations(path)


WRONG: list[tuple[Any, str]] = [
    (5, "list of turns, not int"),
    (None, "list of turns, not NoneType"),
    (True, "list of turns, not bool"),
    ("Hello", "list of turns, not one string: write ['Hello']"),
    ([], "empty"),
    ({}, "neither turns nor messages in an object with no keys"),
    ({"text": "Hi", "label": 1}, "neither turns nor messages in an object with text, label"),
    ({"turns": []}, "empty"),
    ({"turns": "Hello"}, "turns must be a list of strings, not str"),
    ({"turns": None}, "turns must be a list of strings, not NoneType"),
    ({"turns": ["Hi", ""]}, "turn 2 is empty"),
    ({"turns": ["Hi", 7]}, "turn 2 is int, not a string"),
    ({"turns": [["Hi"]]}, "turn 1 is list, not a string"),
    ({"turns": ["Hi", "Yes"], "speakers": ["Ann"]}, "speakers must have one name per turn"),
    ({"turns": ["Hi"], "speakers": "Ann"}, "speakers must have one name per turn"),
    ({"turns": ["Hi"], "speakers": 5}, "speakers must have one name per turn"),
    ({"turns": ["Hi"], "speakers": {"Ann": 1}}, "speakers must have one name per turn"),
    ({"turns": ["Hi"], "speakers": [5]}, "the speaker of turn 1 is 5"),
    ({"turns": ["Hi"], "speakers": [["Ann"]]}, "the speaker of turn 1 is ['Ann']"),
    ({"turns": ["Hi"], "pinned": "1"}, "pinned is '1', not a number of turns"),
    ({"turns": ["Hi"], "pinned": True}, "pinned is True, not a number of turns"),
    ({"turns": ["Hi"], "pinned": 2}, "pinned is 2, but there are 1 turns"),
    ({"messages": "Hi"}, "messages are not a list"),
    ({"messages": []}, "empty"),
    ({"messages": [{"role": "user"}]}, "message 1 needs a role and a content"),
    ({"messages": ["Hi"]}, "message 1 needs a role and a content"),
    ({"messages": [{"role": "user", "content": None}]}, "turn 1 is NoneType, not a string"),
    ({"messages": [{"role": 5, "content": "Hi"}]}, "the speaker of turn 1 is 5"),
    ({"messages": [{"role": ["user"], "content": "Hi"}]}, "the speaker of turn 1 is ['user']"),
    (["Hi", "half a pizza \ud83c"], "turn 2 contains half a surrogate pair"),
]


@pytest.mark.parametrize(("shape", "message"), WRONG, ids=[message for _, message in WRONG])
def test_a_wrong_shape_is_located_by_file_and_line(write: Callable[[str], Path], shape: Any, message: str) -> None:
    path = write('["fine"]\n' + json.dumps(shape) + "\n")

    with pytest.raises(ConversationError) as caught:
        read_conversations(path)

    assert str(caught.value).startswith(f"{path}:2: ")
    assert message in str(caught.value)


@pytest.mark.parametrize(("shape", "message"), WRONG, ids=[message for _, message in WRONG])
def test_a_wrong_object_is_named_by_its_number(shape: Any, message: str) -> None:
    with pytest.raises(ConversationError) as caught:
        read_conversations([["fine"], shape])

    assert str(caught.value).startswith("conversation 2: ")
    assert message in str(caught.value)


@pytest.mark.parametrize("number", ["NaN", "Infinity", "1e999", "9" * 5000], ids=["NaN", "inf", "huge", "long"])
def test_numbers_that_json_alone_would_take_are_located_too(write: Callable[[str], Path], number: str) -> None:
    path = write(f'["Hi", {number}]\n')

    with pytest.raises(ConversationError, match=f"^{re.escape(str(path))}:1:"):
        read_conversations(path)


def test_deep_nesting_is_an_error_and_no_crash(write: Callable[[str], Path]) -> None:
    path = write('["fine"]\n' + "[" * 100_000 + "]" * 100_000 + "\n")

    with pytest.raises(ConversationError, match=f"^{re.escape(str(path))}:2: nested too deeply"):
        read_conversations(path)


@pytest.mark.parametrize("content", ["", "\n \n", "\ufeff"], ids=["empty", "blank lines", "byte-order mark"])
def test_a_file_without_a_conversation_is_refused(write: Callable[[str], Path], content: str) -> None:
    path = write(content)

    with pytest.raises(ConversationError, match=f"^{re.escape(str(path))} has no conversation: write one per line"):
        read_conversations(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConversationError, match=r"there is no file .*talks.jsonl"):
        read_conversations(tmp_path / "talks.jsonl")


def test_a_folder_is_no_file(tmp_path: Path) -> None:
    with pytest.raises(ConversationError, match=re.escape(str(tmp_path))):
        read_conversations(tmp_path)


def test_a_file_that_may_not_be_read_is_an_error_of_ours(
    write: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write('["Hi"]')

    def refuse(*arguments: Any, **options: Any) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "open", refuse)
    with pytest.raises(ConversationError, match=f"{re.escape(str(path))}.*Permission denied"):
        read_conversations(path)


@pytest.mark.parametrize("text", ["Hello", "Hello, how are you? " * 50, ""], ids=["short", "long", "empty"])
def test_a_lone_string_is_taken_for_a_file_name_and_refused(text: str) -> None:
    with pytest.raises(ConversationError, match="there is no file"):
        read_conversations(text)


@pytest.mark.parametrize("source", [[], (), iter([])], ids=["list", "tuple", "iterator"])
def test_no_conversations_are_refused(source: Any) -> None:
    with pytest.raises(ConversationError, match="the list of conversations is empty"):
        read_conversations(source)


@pytest.mark.parametrize(
    ("source", "kind"),
    [
        (5, "int"),
        (None, "NoneType"),
        ({"turns": ["Hi"]}, "dict"),
        (Conversation(["Hi"]), "Conversation"),
        (SimpleNamespace(turns=["Hi"]), "SimpleNamespace"),
    ],
)
def test_what_is_no_list_of_conversations_is_refused_by_its_type(source: Any, kind: str) -> None:
    with pytest.raises(ConversationError, match=f"a file or a list of conversations, not {kind}"):
        read_conversations(source)


def test_one_conversation_where_a_list_of_them_belongs_names_the_cure() -> None:
    with pytest.raises(ConversationError, match=r"conversation 1: .* write \['Hello'\]"):
        read_conversations(["Hello", "How are you"])


@pytest.mark.parametrize(
    "source",
    [
        pd.DataFrame({"turns": [["Hi", "Hello"], ["Bye", "See you"]]}),
        pd.DataFrame({"prompt": ["Hi", "Bye"], "response": ["Hello", "See you"], "system": [None, math.nan]}),
        pd.DataFrame({"chat_id": [1, 1, 2, 2], "role": ["user", "assistant"] * 2, "text": TEXTS}),
        pd.Series([["Hi", "Hello"], ["Bye", "See you"]]),
        np.array([["Hi", "Hello"], ["Bye", "See you"]]),
        [np.array(["Hi", "Hello"]), pd.Series(["Bye", "See you"])],
        Dataset.from_dict({"turns": [["Hi", "Hello"], ["Bye", "See you"]]}),
    ],
    ids=lambda source: type(source).__name__,
)
def test_tables_and_arrays_are_read_by_rows(source: Any) -> None:
    reader = ConversationReader(source)
    for _ in range(2):
        assert [tuple(conversation.turns) for conversation in reader] == [("Hi", "Hello"), ("Bye", "See you")]


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (io.StringIO('["Hi"]'), "not StringIO: give the name of the file"),
        ({"turns": ["Hi"]}, "not dict: give a list, even of one conversation"),
        (b"Hi", "not bytes"),
        (["data/train.jsonl"], "conversation 1: 'data/train.jsonl' is the name of a file: give one file or folder"),
    ],
)
def test_a_source_of_another_kind_says_what_to_give(source: Any, message: str) -> None:
    with pytest.raises(ConversationError, match=message):
        list(ConversationReader(source))


def test_a_misspelt_key_is_not_silently_ignored() -> None:
    with pytest.raises(ConversationError, match="did you mean speakers"):
        read_conversations([{"turns": ["Hi", "Hello"], "speaker": ["Ann", "Bob"]}])


def test_a_conversation_without_an_id_is_called_by_its_place(write: Callable[[str], Path]) -> None:
    path = write('["Hi"]\n{"turns": ["Hi"], "id": "mine"}\n')

    assert [conversation.id for conversation in read_conversations(path)] == [f"{path}:1", "mine"]


def once(kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """A source that can be read once, with a conversation, a row that is none, and another conversation."""
    rows: list[Any] = [["Hi"], 7, ["Yes", "No"]]
    content = "".join(f"{json.dumps(row)}\n" for row in rows).encode()
    if kind == "standard input":
        monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(content)))
        return "-"
    if kind == "pipe":
        pipe = tmp_path / "pipe.jsonl"
        os.mkfifo(pipe)
        writing = threading.Thread(target=pipe.write_bytes, args=[content], daemon=True)
        writing.start()
        return pipe
    return iter(rows) if kind == "iterator" else (row for row in rows)


@pytest.mark.parametrize("kind", ["standard input", "pipe", "iterator", "generator"])
def test_what_can_be_read_once_is_kept_to_be_read_again(
    kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    reader = ConversationReader(once(kind, monkeypatch, tmp_path), on_error="skip").repeatable()

    for _ in range(2):
        assert list(reader.repeatable()) == [Conversation(["Hi"]), Conversation(["Yes", "No"])]
        assert (reader.conversations, reader.rows, reader.problems.count, reader.complete) == (2, 3, 1, True)
        assert reader.describe() == "2 conversations (2 turns); 1 rows left out"
        assert next(iter(reader)) == Conversation(["Hi"])  # a reading that ends early
    assert reader.fingerprint() is None


def test_an_invalid_row_of_what_is_kept_is_an_error_when_it_is_read(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    reader = ConversationReader(once("iterator", monkeypatch, tmp_path)).repeatable()

    for _ in range(2):
        with pytest.raises(ConversationError, match="conversation 2: "):
            list(reader)


def test_what_can_be_read_again_is_not_kept(write: Callable[[str], Path]) -> None:
    path = write('["Hi"]\n')
    readers = [ConversationReader(source).repeatable() for source in (path, str(path), path.parent, [["Hi"]])]
    path.write_text('["Yes"]\n', encoding="utf-8")

    assert [next(iter(reader)).turns for reader in readers] == [("Yes",), ("Yes",), ("Yes",), ("Hi",)]
    assert ConversationReader("owner/name").repeatable().source == "owner/name"  # not asked for before it is read


def test_the_fingerprint_is_that_of_all_that_decides_what_is_read(write: Callable[[str], Path]) -> None:
    path = write('["Hi", "Hello"]\n')
    first = ConversationReader(path).fingerprint()
    others = [
        ConversationReader(path, shape="turns"),
        ConversationReader(path, on_error="skip"),
        ConversationReader(path, columns=Columns({"text": "message"})),
    ]

    assert first == ConversationReader(path).fingerprint()
    assert len({first, *(reader.fingerprint() for reader in others)}) == 4
    assert ConversationReader(path, edit=lambda row: row).fingerprint() is None
    write('["Hi", "Hullo"]\n')
    assert first != ConversationReader(path).fingerprint()


def test_a_name_that_cannot_be_written_is_a_problem_with_its_place(tmp_path: Path) -> None:
    path = tmp_path / "named.json"
    path.write_text('{"one": ["Hi", "Yes"], "\\ud800": ["Hi", "No"]}')

    with pytest.raises(ConversationError, match=r"named\.json: .*: the name '\\ud800' contains half a surrogate pair"):
        read_conversations(path)
    assert [one.id for one in read_conversations(path, on_error="skip")] == ["one"]


def test_what_a_check_rejects_is_a_problem_with_its_place(write: Callable[[str], Path]) -> None:
    def check(conversation: Conversation) -> None:
        if "Go" in conversation.turns:
            raise ConversationError("rude")

    rows = ['["Hi", "Yes"]', '["Go"]'] + [
        json.dumps({"conversation_id": 1, "speaker": name, "text": text})
        for name, text in (("Ann", "No"), ("Bob", "Go"))
    ]
    path = write("\n".join(rows))
    reader = ConversationReader(path, on_error="skip", check=check)

    assert list(reader) == [Conversation(["Hi", "Yes"])]
    assert reader.problems.count == 3
    assert reader.problems.messages == [f"{path}:2: rude", f"{path}:3: rude"]
    with pytest.raises(ConversationError, match=r":2: rude"):
        list(ConversationReader(path, check=check))
