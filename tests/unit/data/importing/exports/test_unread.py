"""Files that are not read: each is named for what it is, with the way to bring it in."""

import json
from pathlib import Path
from typing import Any

import pytest

from convmodel.data.importing.exports.formats import recognised
from convmodel.data.importing.exports.unread import EASY, unknown, unread
from convmodel.data.importing.pipeline import ImportOptions, import_conversations
from convmodel.errors import ConversationError

SKYPE = {"userId": "8:ann", "exportDate": "2024-05-02", "conversations": [{"id": "8:bob", "MessageList": []}]}
IMESSAGE = {"guid": "A1", "timestamp": "2024-01-15T10:30:00", "sender": "Ann", "is_from_me": False, "text": "Hi"}
TELEGRAM_PAGE = '<!DOCTYPE html><html><body><div class="page_wrap"><div class="message default clearfix">Hi</div>'

FILES: list[tuple[str, str | dict[str, Any], str, str]] = [
    ("messages.html", TELEGRAM_PAGE, "a page of Telegram's export", "Machine-readable JSON"),
    ("general.html", '<html><div class="chatlog__message">Hi</div>', "a page of DiscordChatExporter", "as JSON"),
    ("chat.htm", "<html><body>Hi", "a page of HTML", "as JSON or text"),
    ("a.csv", "AuthorID,Author,Date,Content,Attachments,Reactions\n", "the CSV of DiscordChatExporter", "as JSON"),
    ("a.txt", "=" * 60 + "\nGuild: Rowers\nChannel: general\n", "the text of DiscordChatExporter", "as JSON"),
    ("a.txt", "Ann, [01.05.2024 15:05]\nHi\n", "text copied from Telegram", "Machine-readable JSON"),
    ("a.txt", "Ann Lee, [5/1/24 3:05 PM]\nHi\n", "text copied from Telegram", "Machine-readable JSON"),
    ("a.txt", "Ann \u2014 05/01/2024 3:05 PM\nHi\n", "text copied from Discord", "as JSON"),
    ("a.txt", "Ann \u2014 Today at 15:05\nHi\n", "text copied from Discord", "as JSON"),
    ("a.txt", "May 01, 2024  3:05:11 PM (Read by you)\nAnn\nHi\n", "the text of imessage-exporter", ""),
    ("a.jsonl", json.dumps(IMESSAGE) + "\n" + json.dumps(IMESSAGE), "messages of iMessage", ""),
    ("a.txt", "消息记录(文本格式)\n消息对象:小红\n", "QQ's export", ""),
    ("a.txt", "Ann 2024-05-01 15:05:11\nHi\n", "text copied from WeChat", ""),
    ("messages.json", SKYPE, "Skype's export", ""),
    (
        "messages.json",
        "[" + json.dumps({"ID": 1, "Timestamp": "", "Contents": "Hi"}) + "]",
        "Discord's copy",
        "as JSON",
    ),
    ("messages.csv", "ID,Timestamp,Contents,Attachments\n1,2024-05-01,Hi,\n", "Discord's copy", "as JSON"),
    ("a.json", {"messages": [{"sender": "@ann:a.b", "origin_server_ts": 1}]}, "Element's export of Matrix", ""),
    ("a.json", {"conversations": [{"conversation": {}, "events": []}]}, "the export of Google Hangouts", ""),
    ("a.json", {"conversations": [{"conversation": {}, "responses": []}]}, "Grok's export", ""),
    ("a.json", "[" + json.dumps({"user_id": "a", "chat": {"history": {}}}) + "]", "Open WebUI's export", ""),
    (
        "a.json",
        "[" + json.dumps(dict.fromkeys(("header", "title", "products"), "a")) + "]",
        "an export of Google's",
        "",
    ),
    ("a.json", {"bob": [{"From": "bob", "Media Type": "TEXT", "Created": "2024"}]}, "Snapchat's export", ""),
    ("a.js", "window.YTD.direct_messages.part0 = [", "X's archive", ""),
]


@pytest.mark.parametrize(("file", "content", "name", "way"), FILES, ids=[f"{row[0]} {row[2]}" for row in FILES])
def test_a_known_program_is_named_with_the_way(
    tmp_path: Path, file: str, content: str | dict[str, Any], name: str, way: str
) -> None:
    path = tmp_path / file
    path.write_text(content if isinstance(content, str) else json.dumps(content, indent=1), encoding="utf-8")

    message = unread(path) or ""

    assert recognised(path) is None
    assert message.startswith(f"{path}: this looks like {name}")
    assert "which is not read (it begins with " in message
    assert way in message
    assert message.endswith(EASY)
    for source in (path, tmp_path):
        with pytest.raises(ConversationError, match=f"this looks like {name}"):
            import_conversations([source], tmp_path / "data")


@pytest.mark.parametrize(
    ("text", "hint"),
    [
        ("12.Mai.24 Ann: Hi", "some lines are"),
        ("2024.05.01 Wednesday\n15:05 Ann Hi", "lines begin with a date"),
        ("15:05 Ann Hi", "lines begin with a clock"),
        (
            "Dear diary, it rained.",
            "is not a known chat export (whatsapp): it begins with 'Dear diary, it rained.': write",
        ),
        ("", "it is empty, or not text"),
    ],
)
def test_an_unknown_text_is_quoted_with_what_is_nearest(tmp_path: Path, text: str, hint: str) -> None:
    path = tmp_path / "notes.txt"
    path.write_text(text)

    assert unread(path) is None
    message = unknown(path, ["whatsapp"])
    assert hint in message
    assert message.endswith(EASY)


def test_a_folder_of_unknown_files_quotes_one(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("Dear diary")

    with pytest.raises(ConversationError, match=r"notes\.md is not a known .*'Dear diary': write it as lines"):
        import_conversations([tmp_path], tmp_path / "data")


def test_ordinary_data_is_of_no_program(tmp_path: Path) -> None:
    for name, content in {
        "a.csv": "conversation_id,speaker,text\n1,Ann,Hi\n",
        "a.json": '[{"messages": [{"role": "user", "content": "Hi"}]}]',
        "a.jsonl": '{"guid": "1", "prompt": "Hi", "response": "Oh"}\n["Hi", "Oh"]\n',
        "empty.json": "",
    }.items():
        (tmp_path / name).write_text(content)
        assert unread(tmp_path / name) is None


def test_what_is_not_read_is_a_problem_of_an_import_that_skips(tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    (inbox / "messages.json").write_text(json.dumps(SKYPE))
    (inbox / "talks.jsonl").write_text('["Is the boat in?", "It is"]\n')

    summary = import_conversations([inbox], tmp_path / "data", ImportOptions(on_error="skip", shares=(1, 0, 0)))

    assert (summary.problems, summary.written) == (1, {"train.jsonl": 1})
    assert "Skype" in summary.first_problems[0]
