"""Columns that the user names: tables, lists of objects, and what is wrong with the names."""

import json
from pathlib import Path

import pytest

from convmodel.conversation import Conversation
from convmodel.data.reading.columns import Columns
from convmodel.data.reading.reader import ConversationReader
from convmodel.errors import ConfigError, ConversationError

TICKETS = Columns.parse("conversation=ticket_id,speaker=sent_by,text=message")
ROWS = [
    {"ticket_id": 7, "sent_by": "Ann", "message": "Is it late?", "created_at": "2024-05-01T10:00:00"},
    {"ticket_id": 7, "sent_by": "Bob", "message": "It is", "created_at": "2024-05-01T10:01:00"},
    {"ticket_id": 8, "sent_by": "Ann", "message": "And now?", "created_at": "2024-05-01T11:00:00"},
]


def check(path: Path, columns: Columns = TICKETS) -> None:
    first, second = ConversationReader(path, columns=columns)
    assert first == Conversation(["Is it late?", "It is"], ["Ann", "Bob"])
    assert (first.id, str(first.started_at), second.turns) == ("7", "2024-05-01 10:00:00", ("And now?",))


def test_a_table_a_list_and_lines(tmp_path: Path) -> None:
    header = "Ticket ID;Sent by;Message;created_at\n"
    table = header + "".join(";".join(map(str, row.values())) + "\n" for row in ROWS)
    (tmp_path / "a.csv").write_text(table)
    (tmp_path / "a.json").write_text(json.dumps(ROWS))
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))

    check(tmp_path / "a.csv")
    check(tmp_path / "a.csv", Columns.parse("conversation=Ticket ID, speaker=Sent by"))
    check(tmp_path / "a.json")
    check(tmp_path / "a.jsonl")


def test_a_list_that_would_be_one_conversation_without_columns(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"room": name, "speaker": "Ann", "text": "Hi"} for name in "ab"]))

    assert [one.id for one in ConversationReader(path, columns=Columns.parse("conversation=room"))] == ["a", "b"]


def test_a_column_that_is_not_there_is_named_with_those_that_are(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_text("room,speaker,text\n1,Ann,Hi\n")

    with pytest.raises(ConversationError, match=r"a\.csv:2: there is no column ticket; there are room, speaker, text"):
        list(ConversationReader(path, columns=Columns.parse("conversation=ticket")))
    with pytest.raises(
        ConversationError, match=r"it has speaker \(speaker\) and text \(text\), but no conversation id"
    ):
        list(ConversationReader(path, columns=Columns.parse("text=text")))


@pytest.mark.parametrize("text", ["", "ticket", "conversation=", "name=sender", "text=a,text=b", "text"])
def test_what_is_no_list_of_columns(text: str) -> None:
    with pytest.raises(ConfigError, match=r"columns is .*: write the parts of a message and their columns, such as"):
        Columns.parse(text)


def test_a_named_time_that_is_none_is_an_error() -> None:
    columns = Columns.parse("conversation=ticket_id,speaker=sent_by,text=message,time=at")
    rows = [{"ticket_id": 7, "sent_by": name, "message": "Hi", "at": "01/05/2024 10:00"} for name in ("Ann", "Bob")]

    with pytest.raises(ConversationError, match="at is '01/05/2024 10:00', not a time: write it such as 2024-01-31"):
        list(ConversationReader(rows, columns=columns))
    [conversation] = ConversationReader([{**row, "at": ""} for row in rows], columns=columns)
    assert conversation.started_at is None


def test_rows_from_the_newest_to_the_oldest_are_an_error() -> None:
    with pytest.raises(ConversationError, match="the last message is earlier than the first: sort them by time"):
        list(ConversationReader([ROWS[1], ROWS[0]], columns=TICKETS))
