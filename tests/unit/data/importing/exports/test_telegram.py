"""Telegram: one chat and whole accounts, texts in pieces, times with and without a zone."""

import json
import zipfile
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from convmodel.data.importing.exports.messages import Chat
from convmodel.data.importing.exports.telegram import LOCAL_TIME, matches, read
from convmodel.data.reading.problems import Problems
from convmodel.errors import ConversationError

FIXTURES = Path(__file__).parent / "fixtures"
GOOD = {"id": 1, "type": "message", "date_unixtime": "1714557600", "from": "Ann", "from_id": "user1", "text": "Hi"}


def read_messages(folder: Path, *messages: Any, problems: Problems | None = None) -> Chat:
    file = folder / "result.json"
    file.write_text(json.dumps({"name": "Us", "type": "personal_chat", "id": 1, "messages": messages}))
    [chat] = read(file, problems or Problems())
    return chat


def test_one_chat() -> None:
    file = FIXTURES / "telegram_chat.json"

    [chat] = read(file, Problems())

    assert chat.name == "Mira Holm"
    assert [(message.speaker, message.text) for message in chat.messages] == [
        ("Mira Holm", "Is the boat back?"),
        ("Olek", "Yes, see https://harbour.example/7 \N{SPEEDBOAT}"),
        ("Olek", "The new mast"),
        ("user33", "Who are you two?"),
        ("Deleted account", "Nobody"),
    ]
    assert chat.messages[0].time == datetime(2024, 5, 1, 10, 1)  # UTC, although the local date says 12:01
    assert chat.messages[0].place == f"{file}: message 2"
    assert chat.dropped == {"system message": 1, "media": 2, "forwarded message": 1, "empty message": 1}
    assert chat.entries == 10
    assert chat.notes == []


def test_an_account_with_the_chats_that_were_left() -> None:
    file = FIXTURES / "telegram_account.json"

    chats = list(read(file, Problems()))

    assert [(chat.name, chat.entries) for chat in chats] == [("Rowing", 2), ("saved messages", 0), ("Dock News", 2)]
    assert [(message.speaker, message.text) for message in chats[0].messages] == [
        ("Ann (2)", "Good morning"),  # earlier than what stands before it; another Ann
        ("Ann", "At nine?"),
    ]
    assert chats[0].messages[1].time == datetime(2019, 3, 2, 9, 30, 5)  # as written
    assert chats[0].notes == [LOCAL_TIME]
    assert chats[2].messages[0].time == datetime(2019, 4, 2, 8)
    assert chats[2].messages[0].place == f"{file}: left_chats 1: message 1"


def test_a_folder_and_a_zip_are_read_like_their_file(tmp_path: Path) -> None:
    folder = tmp_path / "ChatExport_2024-05-01"
    folder.mkdir()
    content = (FIXTURES / "telegram_chat.json").read_bytes()
    (folder / "result.json").write_bytes(content)
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
        archive.writestr("ChatExport_2024-05-01/result.json", content)

    for path in (folder, tmp_path / "export.zip"):
        assert matches(path)
        [chat] = read(path, Problems())
        assert chat.entries == 10


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"forwarded_from": "Town News"}, "forwarded message"),
        ({"forwarded_from": None}, "forwarded message"),  # of a deleted account
        ({"forwarded_from": "Ann", "forwarded_from_id": "user1"}, "forwarded message"),
        ({"saved_from": "Carla"}, "forwarded message"),
        ({"forwarded_from": "Town News", "photo": "a.jpg", "text": ""}, "forwarded message"),
        ({"via_bot": "@poems"}, "bot message"),
        ({"inline_bot_buttons": [[{"type": "url", "text": "Open"}]]}, "bot message"),
        ({"text": [{"type": "blockquote", "text": "At six?"}]}, "quote"),
        ({"text": [{"type": "blockquote", "text": "At six?"}], "photo": "a.jpg"}, "media"),
    ],
)
def test_words_of_others_are_left_out_by_kind(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    chat = read_messages(tmp_path, {**GOOD, **change}, GOOD)

    assert [message.text for message in chat.messages] == ["Hi"]
    assert chat.dropped == {reason: 1}


def test_a_quote_is_no_part_of_the_message(tmp_path: Path) -> None:
    quoting = ["", {"type": "blockquote", "text": "At six?"}, "\nYes, ", {"type": "bold", "text": "six"}]

    chat = read_messages(tmp_path, {**GOOD, "text": quoting, "reply_to_message_id": 1}, GOOD)

    assert [(message.text, message.without) for message in chat.messages] == [("Yes, six", ("quote",)), ("Hi", ())]


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"date_unixtime": None}, "there is no date"),
        ({"date_unixtime": "noon"}, "date_unixtime 'noon' is not a time"),
        ({"date_unixtime": 1e300}, "date_unixtime '1e+300' is not a time"),
        ({"date_unixtime": float("nan")}, "date_unixtime 'nan' is not a time"),
        ({"date_unixtime": True}, "date_unixtime 'True' is not a time"),
        ({"date_unixtime": "0"}, "date_unixtime '0' is not a time"),
        ({"date_unixtime": None, "date": "2024-13-01T00:00:00"}, "date '2024-13-01T00:00:00' is not a time"),
        ({"type": None}, "there is no type"),
        ({"text": 5}, "text is int, not text"),
        ({"text": ["a", 5]}, "text is int, not text"),
        ({"text": [{"type": "link"}]}, "text is NoneType, not text"),
        ({"text": "\ud83d"}, "text contains half a surrogate pair"),
        ({"from": "\ud83d"}, "from contains half a surrogate pair"),
        ({"from": None, "from_id": {}}, "from_id is dict, not text"),
    ],
)
def test_malformed_messages_are_problems(tmp_path: Path, change: dict[str, Any], wrong: str) -> None:
    problems = Problems("skip")

    chat = read_messages(tmp_path, {**GOOD, **change}, GOOD, "Hi", problems=problems)

    assert chat.entries == len(chat.messages) == 1
    assert problems.count == 2
    assert problems.messages[0].startswith(f"{tmp_path / 'result.json'}: message 1: {wrong}")
    assert problems.messages[1].startswith(f"{tmp_path / 'result.json'}: message 3: str instead of an object: fix")
    with pytest.raises(ConversationError, match="message 1: "):
        read_messages(tmp_path, {**GOOD, **change})


@pytest.mark.parametrize("content", ["5", "[]", "{}", '{"messages": 5}', '{"chats": []}', '{"chats": {"list": 5}}'])
def test_what_is_no_export_is_a_problem(tmp_path: Path, content: str) -> None:
    file = tmp_path / "result.json"
    file.write_text(content)
    problems = Problems("skip")

    assert sum(chat.entries for chat in read(file, problems)) == 0
    assert problems.count == 1


def test_an_export_that_is_not_there_or_damaged_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_text('{"messages": [')

    for path in (tmp_path, tmp_path / "a.json", tmp_path / "none.json"):
        with pytest.raises(ConversationError):
            list(read(path, Problems("skip")))
