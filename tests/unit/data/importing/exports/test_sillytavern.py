"""SillyTavern: the shown version of each message, without the program's own."""

import json
from pathlib import Path
from typing import Any

import pytest

from convmodel.data.importing.exports.formats import FORMATS, recognised
from convmodel.data.importing.exports.messages import Chat
from convmodel.data.importing.exports.sillytavern import read
from convmodel.data.reading.problems import Problems
from convmodel.errors import ConversationError

HEADER = {"user_name": "Ann", "character_name": "Bob", "create_date": "2024-5-1 @10h 00m 00s", "chat_metadata": {}}


def read_chat(folder: Path, *lines: Any, problems: Problems | None = None) -> Chat:
    path = folder / "Bob.jsonl"
    path.write_text("\n".join(line if isinstance(line, str) else json.dumps(line) for line in (HEADER, *lines)))
    assert recognised(path) is FORMATS["sillytavern"]
    [chat] = read(path, problems or Problems())
    return chat


def message(name: str, text: Any, **fields: Any) -> dict[str, Any]:
    return {"name": name, "is_user": name == "Ann", "send_date": "May 1, 2024 10:00am", "mes": text, **fields}


def test_a_chat(tmp_path: Path) -> None:
    chat = read_chat(
        tmp_path,
        message("Bob", "Welcome to the inn.", is_system=False),
        message("Ann", "Have you a room?"),
        message("Bob", "One, under the roof.", swipes=["None.", "One, under the roof."], swipe_id=1),
        message("SillyTavern System", "Use /help", is_system=True),
        message("Bob", ""),
    )

    assert [(message.speaker, message.text) for message in chat.messages] == [
        ("Bob", "Welcome to the inn."),
        ("Ann", "Have you a room?"),
        ("Bob", "One, under the roof."),
    ]
    assert chat.messages[1].place == f"{tmp_path}/Bob.jsonl:3"
    assert chat.dropped == {"system message": 1, "empty message": 1}


def test_a_chat_without_a_description_keeps_its_first_message(tmp_path: Path) -> None:
    path = tmp_path / "Inn.jsonl"
    path.write_text("\n".join(json.dumps(message(name, "Hi")) for name in ("Bob", "Ann")))

    [chat] = read(path, Problems())

    assert recognised(path) is FORMATS["sillytavern"]
    assert [(one.speaker, one.place) for one in chat.messages] == [("Bob", f"{path}:1"), ("Ann", f"{path}:2")]


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("{", "NoneType instead of an object"),
        ("[]", "list instead of an object"),
        (message("", "Hi"), "there is no name"),
        ({"name": "Ann"}, "there is no mes"),
        (message("Ann", 5), "mes is int, not text"),
    ],
)
def test_malformed_lines_are_problems(tmp_path: Path, line: Any, wrong: str) -> None:
    problems = Problems("skip")

    chat = read_chat(tmp_path, line, message("Bob", "Hi"), problems=problems)

    assert (len(chat.messages), problems.count) == (1, 1)
    with pytest.raises(ConversationError, match=rf"Bob\.jsonl:2: {wrong}"):
        read_chat(tmp_path, line)
