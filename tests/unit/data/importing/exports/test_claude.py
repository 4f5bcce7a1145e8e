"""Claude: the branch that is shown, blocks of text, attached text, and the export's own sentences."""

import json
from pathlib import Path
from typing import Any

import pytest

from convmodel.data.importing.exports.chatgpt import matches, read
from convmodel.data.importing.exports.messages import Chat
from convmodel.data.reading.problems import Problems

ROOT = "00000000-0000-4000-8000-000000000000"
PLACEHOLDER = "```\nThis block is not supported on your current device yet.\n```"
USE = {"type": "tool_use", "name": "web_search", "input": {"query": "tides"}}
RESULT = {"type": "tool_result", "name": "web_search", "content": []}


def text(words: str) -> dict[str, Any]:
    return {"type": "text", "text": words, "citations": []}


def message(name: str, parent: str | None, *blocks: Any, minute: int = 0, **fields: Any) -> dict[str, Any]:
    entry = {
        "uuid": name,
        "text": "\n".join(block["text"] for block in blocks if block.get("type") == "text"),
        "content": list(blocks),
        "sender": "human" if name.startswith("q") else "assistant",
        "created_at": f"2025-05-01T10:{minute or int(name[1:]):02}:00.000000Z",
        "attachments": [],
        "files": [],
        "parent_message_uuid": parent,
    }
    return entry | fields


def read_chat(folder: Path, *messages: Any, problems: Problems | None = None, **fields: Any) -> Chat:
    file = folder / "conversations.json"
    file.write_text(json.dumps([{"uuid": "u", "name": "Talk", "chat_messages": messages, **fields}]))
    assert matches(file)
    [chat] = read(file, problems or Problems())
    return chat


def said(chat: Chat) -> list[tuple[str, str]]:
    return [(message.speaker, message.text) for message in chat.messages]


def test_only_the_branch_that_is_shown_is_read(tmp_path: Path) -> None:
    messages = [
        message("q1", ROOT, text("Name a river")),
        message("a2", "q1", text("The Oder.")),
        message("a3", "q1", text("The Elbe.")),
        message("q4", "a3", text("And a lake")),
        message("a5", "q4", text("Lake One.")),
        message("q6", "a3", text("And a sea")),
        message("a7", "q6", text("The North Sea.")),
    ]

    newest = read_chat(tmp_path, *messages)
    chosen = read_chat(tmp_path, *messages, current_leaf_message_uuid="a5")

    river = [("user", "Name a river"), ("assistant", "The Elbe.")]
    assert said(newest) == [*river, ("user", "And a sea"), ("assistant", "The North Sea.")]
    assert said(chosen) == [*river, ("user", "And a lake"), ("assistant", "Lake One.")]
    assert newest.dropped == chosen.dropped == {"other branch": 3}


def test_the_newest_message_ends_the_branch_wherever_it_stands(tmp_path: Path) -> None:
    chat = read_chat(
        tmp_path,
        message("a4", "q3", text("The Spree.")),
        message("q3", ROOT, text("Another river")),
        message("q1", ROOT, text("A river")),
        message("a2", "q1", text("The Oder.")),
    )

    assert said(chat) == [("user", "Another river"), ("assistant", "The Spree.")]
    assert chat.dropped == {"other branch": 2}


def test_without_parents_all_messages_are_read_in_order(tmp_path: Path) -> None:
    chat = read_chat(tmp_path, message("q1", None, text("Hi")), message("a2", None, text("Hello")))

    assert said(chat) == [("user", "Hi"), ("assistant", "Hello")]


def test_a_message_without_a_parent_follows_the_one_before_it(tmp_path: Path) -> None:
    chat = read_chat(
        tmp_path,
        message("q1", ROOT, text("Hi")),
        message("a2", None, text("Hello")),
        message("q3", "a2", text("Bye")),
    )

    assert [text for _, text in said(chat)] == ["Hi", "Hello", "Bye"]


def test_blocks_of_text_are_the_message_and_other_blocks_are_not(tmp_path: Path) -> None:
    thinking = {"type": "thinking", "thinking": "They want tides", "summaries": []}
    blocks = [thinking, text("I will look."), USE, RESULT, text("High at six.")]

    chat = read_chat(
        tmp_path,
        message("q1", ROOT, text("Tides?")),
        message("a2", "q1", *blocks, text=f"I will look.\n{PLACEHOLDER}\n\nHigh at six."),
        message("a3", "a2", USE, text=PLACEHOLDER),
        message("a4", "a3", thinking),
    )

    assert said(chat) == [("user", "Tides?"), ("assistant", "I will look.\nHigh at six.")]
    assert chat.dropped == {"other content": 2}


def test_a_sentence_in_several_blocks_stays_one(tmp_path: Path) -> None:
    blocks = [text("High tide is at "), text("six"), text("."), text("Low at noon.")]

    chat = read_chat(tmp_path, message("a1", ROOT, *blocks, text="High tide is at six.\n\nLow at noon."))

    assert said(chat) == [("assistant", "High tide is at six.\nLow at noon.")]


@pytest.mark.parametrize("content", [[], None, [{"type": "text", "text": ""}]])
def test_older_exports_have_the_whole_text_only(tmp_path: Path, content: Any) -> None:
    chat = read_chat(
        tmp_path,
        message("a1", ROOT, text=f"\n{PLACEHOLDER}\n\nBefore.\n{PLACEHOLDER}\n\nAfter ```code```.", content=content),
        message("a2", "a1", text=f"{PLACEHOLDER}\n\n\n{PLACEHOLDER}\n", content=content),
        message("q3", "a2", text="", content=content),
    )

    assert said(chat) == [("assistant", "Before.\nAfter ```code```.")]
    assert chat.dropped == {"other content": 1, "empty message": 1}


def test_the_text_of_an_attachment_is_a_part_of_the_message(tmp_path: Path) -> None:
    pasted = {"file_name": "", "file_type": "txt", "extracted_content": "Dear neighbour, your hedge is high."}
    picture = {"file_name": "a.png", "file_type": "png", "extracted_content": None}

    chat = read_chat(
        tmp_path,
        message("q1", ROOT, text(""), attachments=[pasted]),
        message("q2", "q1", text("Make this shorter"), attachments=[picture, pasted]),
        message("q3", "q2", text(""), attachments=[picture]),
        message("q4", "q3", text(""), files=[{"file_name": "a.png"}]),
    )

    letter = pasted["extracted_content"]
    assert said(chat) == [("user", letter), ("user", f"Make this shorter\n{letter}")]
    assert chat.dropped == {"media": 2}


@pytest.mark.parametrize(
    ("bad", "wrong"),
    [
        (5, "int instead of an object"),
        (message("q1", ROOT, text("Hi"), sender="tool"), "sender is 'tool', neither human nor assistant"),
        (message("q1", ROOT, text("Hi"), content="Hi"), "content is str, not a list"),
        (message("q1", ROOT, text("Hi"), content=["Hi"]), "str instead of an object"),
        (message("q1", ROOT, text("Hi"), attachments=[{"extracted_content": 5}]), "extracted_content is int, not text"),
        (message("q1", ROOT, text("Hi"), created_at="soon"), "created_at 'soon' is not a time"),
    ],
)
def test_malformed_messages_are_problems(tmp_path: Path, bad: Any, wrong: str) -> None:
    problems = Problems("skip")

    chat = read_chat(tmp_path, bad, message("a2", "q1", text("Hello")), problems=problems)

    assert chat.entries == len(chat.messages) == 1
    assert problems.messages[0].startswith(f"{tmp_path}/conversations.json: conversation 1: message 1: {wrong}")
