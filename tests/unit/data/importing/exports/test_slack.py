"""Slack: folders of days, people's names, marks in texts, threads."""

import json
import zipfile
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from convmodel.data.importing.exports.slack import WITHOUT_NAMES, matches, read
from convmodel.data.reading.problems import Problems
from convmodel.errors import ConversationError

EXPORT = Path(__file__).parent / "fixtures" / "slack"
GOOD = {"type": "message", "user": "U1", "text": "Hi", "ts": "1700000000.000100"}


def write(folder: Path, *messages: Any) -> Path:
    (folder / "users.json").write_text('[{"id": "U1", "name": "ann"}]')
    (folder / "channels.json").write_text('[{"id": "C1", "name": "general"}]')
    (folder / "general").mkdir()
    day = folder / "general" / "2023-11-14.json"
    day.write_text(json.dumps(messages))
    return day


def test_a_workspace() -> None:
    direct, channel, thread = read(EXPORT, Problems())

    assert (direct.name, direct.messages[0].text) == ("Mira, Olek Wit", "Psst")
    assert channel.name == "#general"
    assert [(message.speaker, message.text) for message in channel.messages] == [
        ("Mira", "Hi @Olek Wit, see #general and the plan <3"),
        ("Olek Wit", "@here lunch & tea"),
        ("Olek Wit", "waves"),
        ("Mira", "The map"),
        ("Zoe", "z@x.example https://y.example"),
    ]
    assert channel.messages[0].time == datetime(2023, 11, 14, 22, 13, 30, 200)
    assert channel.messages[2].place == f"{EXPORT}/general/2023-11-15.json: message 2"
    assert channel.dropped == {
        "system message": 1,
        "bot message": 2,
        "media": 1,
        "deleted message": 1,
        "empty message": 1,
    }
    assert thread.entries + channel.entries == 15


def test_a_thread_is_a_chat_that_begins_with_what_it_answers() -> None:
    *_, thread = read(EXPORT, Problems())

    assert [message.text for message in thread.messages] == ["Who brings the oars?", "I do", "Found them"]
    assert thread.dropped == {"repeated message": 1}  # shown in the channel too
    assert thread.name == "#general, thread 1700000020.000300"


def test_a_zip_is_read_like_its_folder(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "export.zip", "w") as archive:
        for file in EXPORT.rglob("*.json"):
            archive.write(file, f"workspace/{file.relative_to(EXPORT)}")
        archive.writestr("__MACOSX/workspace/general/._2023-11-14.json", b"\x00")

    assert matches(tmp_path / "export.zip")
    zipped, plain = list(read(tmp_path / "export.zip", Problems())), list(read(EXPORT, Problems()))
    assert [(chat.name, chat.dropped) for chat in zipped] == [(chat.name, chat.dropped) for chat in plain]
    assert zipped[1].messages[0].place == f"{tmp_path}/export.zip/workspace/general/2023-11-14.json: message 2"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("<@U1>", "@ann"),
        ("<@U5|bo>", "@bo"),
        ("<@U5>", "@U5"),
        ("<#C1>", "#general"),
        ("<#C1|>", "#general"),
        ("<!subteam^S1|@crew>", "@crew"),
        ("<!channel>", "@channel"),
        ("<!date^1700000000^{date}|today>", "today"),
        ("<https://x.example>", "https://x.example"),
        ("&lt;@U1&gt; &amp;lt;", "<@U1> &lt;"),
        ("a < b > c", "a < b > c"),
    ],
)
def test_marks_become_what_slack_shows(tmp_path: Path, text: str, expected: str) -> None:
    write(tmp_path, {**GOOD, "text": text})

    [chat] = read(tmp_path, Problems())

    assert chat.messages[0].text == expected


def test_a_program_that_posts_for_a_person_is_the_person(tmp_path: Path) -> None:
    write(tmp_path, {**GOOD, "bot_id": "B1"}, {**GOOD, "bot_id": "B1", "user": "U5", "ts": "1700000001.0"})

    [chat] = read(tmp_path, Problems())

    assert [message.speaker for message in chat.messages] == ["ann"]
    assert chat.dropped == {"bot message": 1}


@pytest.mark.parametrize(
    ("change", "wrong"),
    [
        ({"ts": None}, "there is no ts"),
        ({"ts": 1.5}, "ts is float, not text"),
        ({"ts": "nan"}, "ts 'nan' is not a time"),
        ({"user": None}, "there is no user"),
        ({"text": {}}, "text is dict, not text"),
        ({"text": "\ud800"}, "text contains half a surrogate pair"),
        ({"subtype": []}, "subtype is list, not text"),
        ({"files": "a"}, "files is str, not a list"),
    ],
)
def test_malformed_messages_are_problems(tmp_path: Path, change: dict[str, Any], wrong: str) -> None:
    day = write(tmp_path, {**GOOD, **change}, GOOD)
    problems = Problems("skip")

    [chat] = read(tmp_path, problems)

    assert chat.entries == len(chat.messages) == 1
    assert problems.count == 1
    assert problems.messages[0].startswith(f"{day}: message 1: {wrong}")


def test_one_channel_is_read_with_ids_for_names(tmp_path: Path) -> None:
    folder = tmp_path / "general"
    folder.mkdir()
    joined = {**GOOD, "subtype": "channel_join", "text": "<@U1> has joined the channel", "ts": "1714550400.0"}
    (folder / "2024-05-01.json").write_text(
        json.dumps([
            joined,
            {**GOOD, "text": "did the <https://x.example|post> come &amp; when", "ts": "1714550401.0"},
            {**GOOD, "user": "U2", "text": "it did <@U1>", "ts": "1714550402.0"},
        ])
    )  # fmt: skip
    (folder / "2024-05-02.json").write_text(
        json.dumps([
            {"type": "message", "subtype": "bot_message", "text": "Stand-up", "bot_id": "B1", "ts": "1714637000.0"},
            {**GOOD, "user": "USLACKBOT", "text": "Reminder", "ts": "1714637001.0"},
        ])
    )  # fmt: skip

    for path, entries in ((folder, 5), (folder / "2024-05-01.json", 3)):
        assert matches(path)
        [chat] = read(path, Problems())
        assert (chat.name, chat.entries, chat.notes) == ("#general", entries, [WITHOUT_NAMES])
        assert [(message.speaker, message.text) for message in chat.messages] == [
            ("U1", "did the post come & when"),
            ("U2", "it did @U1"),
        ]
    assert chat.dropped == {"system message": 1}


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"subtype": "file_share", "text": "<@U1> uploaded a file: <https://x.example|map.png>"}, "media"),
        ({"subtype": "file_share", "text": "", "files": [{}]}, "media"),
        ({"text": "", "attachments": [{"is_share": True, "text": "The bridge is closed"}]}, "forwarded message"),
        ({"text": "&gt; At six?"}, "quote"),
        ({"subtype": "huddle_thread", "text": "A huddle started"}, "system message"),
        ({"subtype": "channel_topic", "text": "<@U1> set the channel topic: boats"}, "system message"),
        ({"subtype": "reminder_add", "text": "<@U1> set up a reminder"}, "system message"),
    ],
)
def test_what_nobody_wrote_is_left_out_by_kind(tmp_path: Path, change: dict[str, Any], reason: str) -> None:
    write(tmp_path, {**GOOD, **change, "ts": "1699999999.0"}, GOOD)

    [chat] = read(tmp_path, Problems())

    assert [message.text for message in chat.messages] == ["Hi"]
    assert chat.dropped == {reason: 1}


def test_a_comment_on_a_file_is_a_message(tmp_path: Path) -> None:
    write(tmp_path, {**GOOD, "subtype": "file_share", "text": "here is the map", "files": [{}]})

    [chat] = read(tmp_path, Problems())

    assert [message.text for message in chat.messages] == ["here is the map"]


@pytest.mark.parametrize("form", ["list", "object"])
def test_a_channel_in_one_file_of_any_name(tmp_path: Path, form: str) -> None:
    path = tmp_path / "general.json"
    listed = [
        {**GOOD, "subtype": "channel_join", "text": "<@U1> has joined the channel"},
        {**GOOD, "ts": "1700000001.0"},
    ]
    path.write_text(json.dumps(listed if form == "list" else {"channel_id": "C1", "messages": listed}))

    assert matches(path)
    [chat] = read(path, Problems())
    assert (chat.name, [message.text for message in chat.messages]) == ("#general", ["Hi"])
    assert chat.dropped == {"system message": 1}


def test_a_file_without_messages_is_not_read(tmp_path: Path) -> None:
    path = tmp_path / "general.json"
    path.write_text("[]")

    assert not matches(path)
    with pytest.raises(ConversationError, match="give the zip or the folder"):
        list(read(path, Problems()))
