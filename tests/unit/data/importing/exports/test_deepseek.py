"""DeepSeek: requests and responses, without thoughts and searches."""

import json
from pathlib import Path
from typing import Any

import pytest

from convmodel.data.importing.exports.chatgpt import matches, read
from convmodel.data.importing.exports.messages import Chat
from convmodel.data.reading.problems import Problems


def node(parent: str, *fragments: tuple[str, str], **fields: Any) -> dict[str, Any]:
    listed = [{"type": kind, "content": content} for kind, content in fragments]
    message = {"files": [], "model": "deepseek-chat", "inserted_at": "2025-02-01T10:00:00+08:00", "fragments": listed}
    return {"parent": parent, "children": [], "message": message | fields}


def read_chat(folder: Path, problems: Problems | None = None, **nodes: Any) -> Chat:
    file = folder / "conversations.json"
    root = {"id": "root", "parent": None, "children": ["1"], "message": None}
    mapping = {"root": root, **{name[1:]: {"id": name[1:], **value} for name, value in nodes.items()}}
    file.write_text(json.dumps([{"id": "a", "title": "Post", "inserted_at": "2025-02-01", "mapping": mapping}]))
    assert matches(file)
    [chat] = read(file, problems or Problems())
    return chat


def test_requests_and_responses_are_the_turns(tmp_path: Path) -> None:
    chat = read_chat(
        tmp_path,
        n1=node("root", ("REQUEST", "what is [citation:1]")),
        n2=node("1", ("RESPONSE", "At noon.")),
        n3=node(
            "1", ("THINK", "they ask"), ("SEARCH", "post"), ("RESPONSE", "In the morning [citation:1][reference:0].")
        ),
        n4=node("3", ("REQUEST", ""), files=[{"name": "a.pdf"}]),
        n5=node("4", ("THINK", "a picture")),
    )

    assert [(message.speaker, message.text) for message in chat.messages] == [
        ("user", "what is [citation:1]"),  # of the user's own
        ("assistant", "In the morning."),
    ]
    assert str(chat.messages[0].time) == "2025-02-01 02:00:00"
    assert chat.dropped == {"other branch": 1, "media": 1, "other content": 1}


def test_a_long_run_of_spaces_is_kept(tmp_path: Path) -> None:
    table = "one" + " " * 400_000 + "two"

    chat = read_chat(tmp_path, n1=node("root", ("RESPONSE", f"{table} \t [citation:1]!")))

    assert [message.text for message in chat.messages] == [f"{table}!"]


@pytest.mark.parametrize(
    ("bad", "wrong"),
    [
        (node("root", ("REQUEST", "Hi"), ("RESPONSE", "Oh")), "a message has both a request and a response"),
        (node("root", ("REQUEST", "Hi"), inserted_at=None), "there is no inserted_at"),
        (node("root", fragments=["Hi"]), "str instead of an object"),
        ({"parent": "root", "message": {"content": "Hi", "reasoning_content": None}}, "who wrote it is not recorded"),
    ],
)
def test_malformed_messages_are_problems(tmp_path: Path, bad: Any, wrong: str) -> None:
    problems = Problems("skip")

    chat = read_chat(tmp_path, problems, n1=bad, n2=node("1", ("RESPONSE", "Oh")))

    assert chat.entries == len(chat.messages) == 1
    assert problems.messages[0].startswith(f"{tmp_path}/conversations.json: conversation 1: message 2: {wrong}")
