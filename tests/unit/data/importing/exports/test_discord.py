"""Discord: DiscordChatExporter's files, names in place of marks, channels in parts."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from convmodel.data.importing.exports.discord import matches, read
from convmodel.data.reading.problems import Problems

FIXTURES = Path(__file__).parent / "fixtures"
GOOD = {
    "id": "1",
    "type": "Default",
    "timestamp": "2024-05-01T10:00:00+00:00",
    "content": "Hi",
    "author": {"id": "7", "name": "ann", "nickname": "Ann", "isBot": False},
}


def write(file: Path, *messages: Any) -> Path:
    file.write_text(json.dumps({"guild": {"name": "G"}, "channel": {"id": "9", "name": "c"}, "messages": messages}))
    return file


def test_a_channel() -> None:
    file = FIXTURES / "discord.json"

    [chat] = read(file, Problems())

    assert chat.name == "Rowers / general"
    assert [(message.speaker, message.text) for message in chat.messages] == [
        ("Mira", "Welcome @Olek, @Olek and <@77> :oar: :wave:"),
        ("olek", "Thanks!"),
    ]
    assert [message.time for message in chat.messages] == [
        datetime(2024, 5, 1, 10, 1, 0, 250_000),  # UTC: the export says 12:01 in another zone
        datetime(2024, 5, 1, 10, 2),
    ]
    assert chat.messages[1].place == f"{file}: message 3"
    assert chat.dropped == {"system message": 2, "media": 1, "bot message": 1, "empty message": 1}
    assert chat.entries == 7


def test_parts_of_a_channel_are_one_chat_and_what_they_share_is_counted_once() -> None:
    folder = FIXTURES / "discord_parts"

    assert matches(folder)
    [chat] = read(folder, Problems())

    assert [message.text for message in chat.messages] == ["Day 1", "Day 2", "In both"]
    assert chat.dropped == {"repeated message": 1}


def test_a_damaged_file_of_a_folder_is_a_problem(tmp_path: Path) -> None:
    write(tmp_path / "a.json", GOOD)
    (tmp_path / "b.json").write_text('{"guild": {}, "channel": {}, "messages": [{')
    (tmp_path / "package.json").write_text('{"name": "not an export"}')
    problems = Problems("skip")

    [chat] = read(tmp_path, problems)

    assert chat.entries == 1
    assert problems.count == 1
    assert problems.messages[0].startswith(f"{tmp_path / 'b.json'}:1:")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"content": "", "forwardedMessage": {"content": "The bridge is closed."}}, "forwarded message"),
        ({"content": "The bridge is closed.", "reference": {"type": "Forward"}}, "forwarded message"),
        ({"content": "> At six?\n> Or seven?"}, "quote"),
        ({"content": ">>> At six?\nOr seven?"}, "quote"),
        ({"interaction": {"name": "poem"}}, "bot message"),
        ({"type": "GuildMemberJoin", "content": "Joined the server."}, "system message"),
        ({"type": "ThreadCreated", "content": "Started a thread."}, "system message"),
        ({"type": "46", "content": "poll"}, "system message"),
    ],
)
def test_what_the_author_did_not_write_is_left_out_by_kind(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    file = write(tmp_path / "a.json", {**GOOD, **change}, {**GOOD, "id": "2"})

    [chat] = read(file, Problems())

    assert [message.text for message in chat.messages] == ["Hi"]
    assert chat.dropped == {reason: 1}


def test_a_reply_and_a_quote_in_it(tmp_path: Path) -> None:
    reply = {**GOOD, "type": "Reply", "reference": {"messageId": "1", "type": "Default"}}
    file = write(
        tmp_path / "a.json",
        {**reply, "content": "> At six?\nYes\n> And where?\nHere, 5 > 3\n>_<"},
    )

    [chat] = read(file, Problems())

    assert [(message.text, message.without) for message in chat.messages] == [
        ("Yes\nHere, 5 > 3\n>_<", ("quote",)),
    ]


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"timestamp": None}, "there is no timestamp"),
        ({"timestamp": 5}, "timestamp '5' is not a time"),
        ({"timestamp": "0001-01-01T00:00:00+14:00"}, "timestamp '0001-01-01T00:00:00+14:00' is not a time"),
        ({"type": 0}, "type is int, not text"),
        ({"author": None}, "NoneType instead of an object"),
        ({"author": {"id": "7"}}, "the author has no name"),
        ({"content": ["Hi"]}, "content is list, not text"),
        ({"content": "\udc00"}, "content contains half a surrogate pair"),
        ({"mentions": {}}, "mentions is dict, not a list"),
    ],
)
def test_malformed_messages_are_problems(tmp_path: Path, change: dict[str, Any], wrong: str) -> None:
    file = write(tmp_path / "a.json", {**GOOD, **change}, GOOD)
    problems = Problems("skip")

    [chat] = read(file, problems)

    assert chat.entries == len(chat.messages) == 1
    assert problems.count == 1
    assert problems.messages[0].startswith(f"{file}: message 1: {wrong}")
