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

    assert [message.text for message in chat.messages] == ["Look: https://x.example", "Na gut … schön"]
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
        ("Ann created a poll: Where to?", "system message"),
        ('Ann voted for "Lake" in the poll: Where to?', "system message"),
        ("Ann started a video chat", "system message"),
        ("Ann hat die Gruppe verlassen.", "system message"),
        ("Annさんがグループを退出しました。", "system message"),
        ("Ann님이 그룹을 나갔습니다.", "system message"),
        ("Video chat ended", "system message"),
        ("Audio call ended", "system message"),
        ("You are now connected on Messenger.", "system message"),
        ("Say hi to your new Facebook friend, Ann.", "system message"),
        ("Messages and calls are secured with end-to-end encryption. Learn more", "system message"),
        ("Ann wasn\u2019t notified about this message because they\u2019re in quiet mode.", "system message"),
        ("You waved at Ann.", "system message"),
        ("You sent a location.", "media"),
        ("The video chat ended", None),
        ("Say hi to your new friend, Ann.", None),
        ("Ann will you come?", None),
        ("Anna is here.", None),
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


def test_a_notice_begins_with_the_whole_name_in_every_language(tmp_path: Path) -> None:
    texts = ["Will Lee hat den Anruf verpasst", "Will Lee a quitté le groupe", "Will you come?", "Will sent a photo."]
    file = write(tmp_path / "message_1.json", *({**GOOD, "sender_name": "Will Lee", "content": text} for text in texts))

    [chat] = read(file, Problems())

    assert [message.text for message in chat.messages] == ["Will you come?"]
    assert chat.dropped == {"system message": 2, "media": 1}


def test_the_text_beside_a_share_is_a_persons_if_it_has_the_link(tmp_path: Path) -> None:
    share = {"share": {"link": "https://x.example/1", "share_text": "A long post"}}
    texts = ["Du hast einen Anhang gesendet.", "A long post", "see https://x.example/1", "try www.x.example", "Look"]
    file = write(tmp_path / "message_1.json", *({**GOOD, **share, "content": text} for text in texts))

    [chat] = read(file, Problems())

    assert [message.text for message in chat.messages] == ["see https://x.example/1", "try www.x.example"]
    assert chat.dropped == {"media": 3}


def test_a_sentence_beside_several_photos_is_the_programs(tmp_path: Path) -> None:
    photo = {**GOOD, "photos": [{"uri": "a.jpg"}]}
    texts = ["Has enviado una foto.", "the new mast", "Has enviado una foto."]
    file = write(tmp_path / "message_1.json", *({**photo, "content": text} for text in texts))

    [chat] = read(file, Problems())

    assert [message.text for message in chat.messages] == ["the new mast"]
    assert chat.dropped == {"media": 2}


def test_a_reaction_is_known_by_its_recurring_words_in_every_language(tmp_path: Path) -> None:
    def by(name: str, text: str) -> dict[str, Any]:
        return {**GOOD, "sender_name": name, "content": text.encode().decode("latin-1")}

    file = write(
        tmp_path / "message_1.json",
        by("Ann", "Hat mit \N{FIRE} auf deine Nachricht reagiert "),
        by("Bob", "Hat mit \N{FACE WITH TEARS OF JOY} auf deine Nachricht reagiert "),
        by("Ann", "gute \N{FIRE} Nacht du da"),
        by("Ann", "gute \N{SPARKLES} Nacht du da"),
        by("Bob", "ja \N{FIRE} nein ja"),
    )

    [chat] = read(file, Problems())

    assert [message.text[:4] for message in chat.messages] == ["gute", "gute", "ja \N{FIRE}"]
    assert chat.dropped == {"reaction": 2}


@pytest.mark.parametrize("call", [{"call_duration": 0}, {"call_duration": 61}, {"type": "Call"}])
def test_a_call_is_known_by_its_fields(tmp_path: Path, call: dict[str, Any]) -> None:
    file = write(tmp_path / "message_1.json", {**GOOD, **call, "content": "L'appel vidéo est terminé"}, GOOD)

    [chat] = read(file, Problems())

    assert chat.dropped == {"system message": 1}


def test_of_an_edited_message_the_last_version_is_read(tmp_path: Path) -> None:
    def at(minute: int, name: str, text: str) -> dict[str, Any]:
        return {"sender_name": name, "timestamp_ms": GOOD["timestamp_ms"] + minute * 60_000, "content": text}

    file = write(
        tmp_path / "message_1.json",
        at(30, "Ann", "one more (edited)"),  # of nothing within the time for edits
        at(5, "Ann", "(edited)"),
        at(4, "Ann", "platform nine (edited)"),
        at(3, "Bob", "thanks"),
        at(3, "Ann", "platform eight (edited)"),
        at(2, "Ann", "see you"),
        at(1, "Ann", "platform six"),
        at(0, "Bob", "which platform"),
    )

    [chat] = read(file, Problems())

    assert [(message.speaker, message.text) for message in chat.messages] == [
        ("Bob", "which platform"),
        ("Ann", "platform nine"),
        ("Ann", "see you"),
        ("Bob", "thanks"),
        ("Ann", "(edited)"),
        ("Ann", "one more"),
    ]
    assert chat.dropped == {"earlier version of an edited message": 2}


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
