"""Google Chat: dates in words, threads, and what people did not write."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from convmodel.data.importing.exports.formats import FORMATS, recognised
from convmodel.data.importing.exports.google_chat import read
from convmodel.data.importing.exports.messages import Chat
from convmodel.data.reading.problems import Problems
from convmodel.errors import ConversationError

ANN = {"name": "Ann", "email": "a@x.example", "user_type": "Human"}
BOB = {"name": "Bob", "email": "b@x.example", "user_type": "Human"}


def message(number: int, text: str, creator: Any = ANN, **fields: Any) -> dict[str, Any]:
    date = f"Wednesday, May 1, 2024 at 10:{number:02}:00 AM UTC"
    entry = {
        "creator": creator,
        "created_date": date,
        "text": text,
        "topic_id": f"t{number}",
        "message_id": f"m{number}",
    }
    return entry | fields


def read_chats(folder: Path, *messages: Any, problems: Problems | None = None) -> list[Chat]:
    path = folder / "Groups" / "DM 7" / "messages.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"messages": messages}))
    (path.parent / "group_info.json").write_text('{"members": []}')
    assert recognised(folder) is FORMATS["google-chat"]
    return list(read(folder, problems or Problems()))


def test_a_chat(tmp_path: Path) -> None:
    [chat] = read_chats(
        tmp_path,
        message(2, "it did", BOB, quoted_message_metadata={"creator": ANN, "text": "did the post come"}),
        message(1, "did the post come"),
        message(3, "hello", {"name": "Ann", "email": "other@x.example", "user_type": "Human"}),
    )

    assert chat.name == "DM 7"
    assert [(message.speaker, message.text) for message in chat.messages] == [
        ("Ann", "did the post come"),
        ("Bob", "it did"),
        ("Ann (2)", "hello"),
    ]
    assert chat.messages[0].time == datetime(2024, 5, 1, 10, 1)


def test_a_thread_is_a_chat_of_its_own(tmp_path: Path) -> None:
    chats = read_chats(
        tmp_path,
        message(1, "news?", topic_id="a"),
        message(2, "lunch?"),
        message(3, "none", BOB, topic_id="a"),
        message(4, "yes", BOB),
    )

    assert [[message.text for message in chat.messages] for chat in chats] == [["lunch?", "yes"], ["news?", "none"]]
    assert [chat.parted for chat in chats] == [True, False]


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"deletion_metadata": {"deletion_type": "CREATOR"}}, "deleted message"),
        ({"message_state": "DELETED"}, "deleted message"),
        ({"creator": {"name": "Helper", "user_type": "Bot"}}, "bot message"),
        ({"text": "", "attached_files": [{"original_name": "a.png"}]}, "media"),
        ({"text": "", "annotations": [{"video_call_metadata": {}}]}, "media"),
        ({"text": None}, "empty message"),
    ],
)
def test_what_nobody_wrote_is_left_out_by_kind(tmp_path: Path, fields: dict[str, Any], reason: str) -> None:
    [chat] = read_chats(tmp_path, message(1, "Hi") | fields, message(2, "Hello"))

    assert [message.text for message in chat.messages] == ["Hello"]
    assert chat.dropped == {reason: 1}


@pytest.mark.parametrize(
    ("date", "time"),
    [
        ("Tuesday, December 31, 2024 at 12:00:59\u202fAM UTC", datetime(2024, 12, 31, 0, 0, 59)),
        ("Monday, July 1, 2024 at 12:30:00 PM UTC", datetime(2024, 7, 1, 12, 30)),
        ("Monday, July 1, 2024, 3:30:00 PM UTC", datetime(2024, 7, 1, 15, 30)),
    ],
)
def test_dates(tmp_path: Path, date: str, time: datetime) -> None:
    [chat] = read_chats(tmp_path, message(1, "Hi", created_date=date))

    assert chat.messages[0].time == time


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"created_date": "mercredi 1 mai 2024 à 10:00:00 UTC"}, "is not a time in English: set the language"),
        ({"created_date": None}, "there is no created_date"),
        ({"created_date": "Monday, February 31, 2024 at 10:00:00 AM UTC"}, "is not a time \\(day is out of range"),
        ({"text": 5}, "text is int, not text"),
        ({"creator": "Ann"}, "str instead of an object"),
    ],
)
def test_malformed_messages_are_problems(tmp_path: Path, change: dict[str, Any], wrong: str) -> None:
    problems = Problems("skip")

    [chat] = read_chats(tmp_path, message(1, "Hi") | change, message(2, "Hello"), problems=problems)

    assert (chat.entries, problems.count) == (1, 1)
    with pytest.raises(ConversationError, match=rf"messages\.json: message 1: .*{wrong}"):
        read_chats(tmp_path, message(1, "Hi") | change)
