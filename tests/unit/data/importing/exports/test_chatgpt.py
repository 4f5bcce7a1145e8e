"""ChatGPT and Claude: the branch that is shown, and what is not said between user and assistant."""

import json
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from convmodel.data.importing.exports.chatgpt import matches, read
from convmodel.data.reading.problems import Problems

FIXTURES = Path(__file__).parent / "fixtures"


def node(text: Any, parent: str | None = None, **fields: Any) -> dict[str, Any]:
    content = {"content_type": "text", "parts": [text]}
    return {
        "parent": parent,
        "message": {"author": {"role": "user"}, "create_time": 1.7e9, "content": content, **fields},
    }


def write(folder: Path, mapping: Any, current: Any = None) -> Path:
    file = folder / "conversations.json"
    file.write_text(json.dumps([{"title": "Us", "mapping": mapping, "current_node": current}]))
    return file


def test_the_branch_that_is_shown() -> None:
    file = FIXTURES / "chatgpt.json"

    [chat] = read(file, Problems())

    assert chat.name == "Tides"
    assert [(message.speaker, message.text) for message in chat.messages] == [
        ("user", "When is high tide?"),
        ("assistant", "At three."),  # without the marks of its sources
        ("user", "Thank you"),  # said aloud
    ]
    assert chat.messages[0].time == datetime(2024, 5, 1, 10, 0, 0, 500_000)
    assert chat.messages[0].place == f"{file}: conversation 1: message 4"
    assert chat.dropped == {
        "system message": 3,
        "other content": 1,
        "media": 1,
        "empty message": 1,
        "other branch": 1,
    }
    assert chat.entries == 10  # all but the root


def test_an_export_of_claude() -> None:
    [chat] = read(FIXTURES / "claude.json", Problems())

    assert chat.name == "Knots"
    assert [(message.speaker, message.text) for message in chat.messages] == [
        ("user", "Which knot?"),
        ("assistant", "A bowline."),
    ]
    assert chat.messages[0].time == datetime(2024, 5, 1, 12, 0, 0, 250_000)
    assert chat.dropped == {"media": 1}


@pytest.mark.parametrize("current", [None, "gone", 5, ["b"]])
def test_without_a_current_node_the_last_one_is_followed(tmp_path: Path, current: Any) -> None:
    file = write(tmp_path, {"a": node("One"), "x": node("Else", "a"), "b": node("Two", "a")}, current)

    [chat] = read(file, Problems())

    assert [message.text for message in chat.messages] == ["One", "Two"]
    assert chat.dropped == {"other branch": 1}


def test_a_circle_of_parents_ends(tmp_path: Path) -> None:
    file = write(tmp_path, {"a": node("One", "b"), "b": node("Two", "a")}, "b")

    [chat] = read(file, Problems())

    assert [message.text for message in chat.messages] == ["One", "Two"]


def test_a_message_may_have_no_time(tmp_path: Path) -> None:
    file = write(tmp_path, {"a": node("One", create_time=None)}, "a")

    [chat] = read(file, Problems())

    assert chat.messages[0].time is None


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('By \ue200entity\ue202["people","Ada Example",0]\ue201, late.', "By Ada Example, late."),
        ('By \ue200entity\ue202["people"\ue201, late.', "By, late."),
        ("See \ue200url\ue202the report\ue202https://x.example\ue201.", "See the report."),
        ("See it.\ue200cite\ue202turn0search3\ue202turn0search8\ue201 Then", "See it. Then"),
        ("See it \ue200filecite\ue202turn1file2\ue202L3-L9\ue201.", "See it."),
        ("\ue203A block.\ue204 \ue200navlist\ue202More\ue202turn0news1\ue201", "A block."),
        ('One\n\ue200image_group\ue202{"query":["a b"],"n":1}\ue201\nTwo', "One\n\nTwo"),
        ("One\ue200i\ue202turn0image0\ue201\ue200video\ue202turn0\ue201 \ue200forecast\ue201", "One"),
        ("It is late.\ue200cite\ue202turn0se", "It is late."),  # the answer was stopped
        ("A \ue205 b", "A  b"),
        ("Three\u30104:0\u2020tides.pdf\u3011.", "Three."),
        ("\uf8ff stays", "\uf8ff stays"),
    ],
)
def test_marks_become_what_the_page_shows(tmp_path: Path, text: str, expected: str) -> None:
    [chat] = read(write(tmp_path, {"a": node(text)}), Problems())

    assert [message.text for message in chat.messages] == [expected]


@pytest.mark.parametrize("long", ["a" + " " * 400_000 + "b", "\u30101\u2020" * 700_000])
def test_a_long_text_is_kept_beside_marks(tmp_path: Path, long: str) -> None:
    file = write(tmp_path, {"a": node(f"\u30101\u2020x\u3011{long} \t \ue200cite\ue202turn0\ue201")})

    assert [message.text for message in next(read(file, Problems())).messages] == [long]


def test_a_message_of_marks_alone_is_left_out(tmp_path: Path) -> None:
    [chat] = read(write(tmp_path, {"a": node("\ue200image_group\ue202{}\ue201")}), Problems())

    assert (chat.messages, chat.dropped) == ([], {"empty message": 1})


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"weight": 0.0}, "system message"),
        ({"metadata": {"is_visually_hidden_from_conversation": True}}, "system message"),
        ({"metadata": {"is_user_system_message": True}}, "system message"),
        ({"author": {"role": "tool"}}, "system message"),
        ({"content": {"content_type": "user_editable_context", "user_profile": "I row"}}, "other content"),
        ({"content": {"content_type": "thoughts", "thoughts": []}}, "other content"),
        ({"content": {"content_type": "reasoning_recap", "content": "Thought for 9s"}}, "other content"),
        ({"content": {"content_type": "code", "text": "search()"}}, "other content"),
        ({"recipient": "canmore.create_textdoc"}, "other content"),
        ({"channel": "analysis"}, "other content"),
    ],
)
def test_what_the_page_does_not_show_is_left_out(tmp_path: Path, fields: dict[str, Any], reason: str) -> None:
    file = write(tmp_path, {"a": node("Hidden", **fields), "b": node("Hi", "a", channel="final", weight=1.0)}, "b")

    [chat] = read(file, Problems())

    assert [message.text for message in chat.messages] == ["Hi"]
    assert chat.dropped == {reason: 1}


@pytest.mark.parametrize(
    ("bad", "wrong"),
    [
        (5, "int instead of an object"),
        ({"message": 5}, "int instead of an object"),
        (node("Hi", author={}), "there is no author's role"),
        (node("Hi", author=None), "NoneType instead of an object"),
        (node("Hi", content={"parts": ["Hi"]}), "there is no content_type"),
        (node("Hi", create_time=float("nan")), "create_time 'nan' is not a time"),
        (node("Hi", create_time=1e308), "create_time '1e+308' is not a time"),
        (node("Hi", create_time="1700000000"), "create_time is text, not a number"),
        (node("Hi", metadata=5), "int instead of an object"),
        (node(None), "a part is NoneType, not text"),
        (node("\ud800"), "a part contains half a surrogate pair"),
    ],
)
def test_malformed_messages_are_problems(tmp_path: Path, bad: Any, wrong: str) -> None:
    file = write(tmp_path, {"bad": bad, "good": node("Hi", "bad")}, "good")
    problems = Problems("skip")

    [chat] = read(file, problems)

    assert chat.entries == len(chat.messages) == 1
    assert problems.count == 1
    assert problems.messages[0].startswith(f"{file}: conversation 1: message 1: {wrong}")


@pytest.mark.parametrize("content", ["5", "{}", "[5]", "[{}]", '[{"mapping": 5}]', '[{"chat_messages": 5}]'])
def test_what_is_no_conversation_is_a_problem(tmp_path: Path, content: str) -> None:
    file = tmp_path / "conversations.json"
    file.write_text(content)
    problems = Problems("skip")

    assert sum(chat.entries for chat in read(file, problems)) == 0
    assert problems.count == 1


@pytest.mark.parametrize("name", ["chatgpt.json", "claude.json"])
def test_a_conversation_alone_is_read_like_one_of_a_list(tmp_path: Path, name: str) -> None:
    first = json.loads((FIXTURES / name).read_text())[0]
    (tmp_path / "one.json").write_text(json.dumps(first))
    (tmp_path / "list.json").write_text(json.dumps([first]))

    [alone], [listed] = (list(read(tmp_path / file, Problems())) for file in ("one.json", "list.json"))

    assert matches(tmp_path / "one.json")
    assert [message.text for message in alone.messages] == [message.text for message in listed.messages] != []


def test_a_folder_is_read_like_its_file(tmp_path: Path) -> None:
    (tmp_path / "conversations.json").write_bytes((FIXTURES / "chatgpt.json").read_bytes())
    (tmp_path / "user.json").write_text('{"id": "me"}')

    assert matches(tmp_path)
    assert [chat.entries for chat in read(tmp_path, Problems())] == [10]
