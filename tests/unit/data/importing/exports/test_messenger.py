"""Messenger and Instagram: repaired texts, files in parts, what the program itself writes."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convmodel.data.importing.exports.messenger import matches, read
from convmodel.data.reading.problems import Problems

FIXTURES = Path(__file__).parent / "fixtures"
GOOD = {"sender_name": "Ann", "timestamp_ms": 1714557600000, "content": "Hi"}


def write(file: Path, *messages: Any) -> Path:
    file.write_text(json.dumps({"participants": [{"name": "Ann"}], "messages": messages, "title": "Us"}))
    return file


def test_the_files_of_a_folder_are_one_chat() -> None:
    folder = FIXTURES / "messenger"

    [chat] = read(folder, Problems())

    assert chat.name == "Renée"
    assert [(message.speaker, message.text) for message in chat.messages] == [
        ("Deleted account", "Hello?"),
        ("Tom", "First, café"),  # is right already
        ("Tom", "Second \N{GRINNING FACE}"),  # at the same time, but the newest stands first
        ("Renée", "Voilà"),
        ("Renée", "You called me."),
    ]
    assert chat.messages[3].time == datetime(2024, 5, 1, 10, 3, 0, 500_000)
    assert chat.messages[3].place == f"{folder}/message_1.json: message 8"
    assert chat.dropped == {
        "deleted message": 1,
        "system message": 2,
        "reaction": 1,
        "media": 2,
        "empty message": 1,
    }
    assert chat.entries == 12


def test_a_whole_export_of_instagram() -> None:
    assert matches(FIXTURES / "instagram")
    [chat] = read(FIXTURES / "instagram", Problems())

    assert [message.text for message in chat.messages] == ["Look", "Na gut … schön"]
    assert chat.dropped == {"reaction": 1}


def test_the_form_of_encrypted_chats() -> None:
    [chat] = read(FIXTURES / "encrypted", Problems())

    assert chat.name == "Lena_3"
    assert [(message.speaker, message.text) for message in chat.messages] == [
        ("Tom", "Kommst du?"),
        ("Lena", "Ja, schön"),
    ]
    assert chat.messages[0].time == datetime(2024, 5, 1, 10)
    assert chat.dropped == {"deleted message": 1, "media": 1}


def test_more_than_nine_files_keep_their_order(tmp_path: Path) -> None:
    for number in range(1, 12):
        write(tmp_path / f"message_{number}.json", {**GOOD, "content": str(number)})

    [chat] = read(tmp_path, Problems())

    assert [message.text for message in chat.messages] == [str(number) for number in range(1, 12)]


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("Ann sent an attachment.", "media"),
        ("Ann sent a photo.", "media"),
        ("You sent an attachment.", "media"),
        ("Liked a message", "reaction"),
        ("Ann liked a message", "reaction"),
        ("Reacted \u2764\ufe0f to your message ", "reaction"),
        ("Ann joined the video chat.", "system message"),
        ("Ann missed your call.", "system message"),
        ("You missed a call from Ann.", "system message"),
        ("Ann named the group Rowers.", "system message"),
        ("Ann set the nickname for Tom to Oar.", "system message"),
        ("Ann changed the theme to Sea.", "system message"),
        ("I liked a message", None),
        ("You called me back.", None),
        ("Tom joined the video chat.", None),
        ("I left the group.", None),
        ("sent an attachment.", None),
    ],
)
def test_what_the_program_writes_is_left_out(tmp_path: Path, content: str, reason: str | None) -> None:
    file = write(tmp_path / "message_1.json", {**GOOD, "content": content})

    [chat] = read(file, Problems())

    assert list(chat.dropped) == [reason] * (reason is not None)
    assert [message.text for message in chat.messages] == [content] * (reason is None)


@settings(max_examples=30)
@given(st.text(min_size=1, max_size=20).filter(str.strip))
def test_any_text_is_repaired(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    file = tmp_path_factory.getbasetemp() / "message_1.json"
    write(file, {**GOOD, "content": text.encode().decode("latin-1")})

    [chat] = read(file, Problems())

    assert [message.text for message in chat.messages] == [text.strip()]


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"timestamp_ms": None}, "there is no timestamp_ms"),
        ({"timestamp_ms": "soon"}, "timestamp_ms 'soon' is not a time"),
        ({"timestamp_ms": 1714557600}, "timestamp_ms '1714557600' is not a time"),  # seconds, not milliseconds
        ({"sender_name": None}, "sender_name is NoneType, not text"),
        ({"content": 5}, "content is int, not text"),
        ({"content": "\ud800"}, "content contains half a surrogate pair"),
    ],
)
def test_malformed_messages_are_problems(tmp_path: Path, change: dict[str, Any], wrong: str) -> None:
    file = write(tmp_path / "message_1.json", {**GOOD, **change}, GOOD)
    problems = Problems("skip")

    [chat] = read(file, problems)

    assert chat.entries == len(chat.messages) == 1
    assert problems.count == 1
    assert problems.messages[0].startswith(f"{file}: message 1: {wrong}")
