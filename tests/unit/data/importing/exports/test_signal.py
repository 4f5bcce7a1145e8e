"""Signal's Markdown: quotes, reactions and attachments are nobody's speech."""

from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from convmodel.data.importing.exports import signal, whatsapp
from convmodel.data.importing.exports.formats import FORMATS, recognised
from convmodel.data.importing.exports.messages import Chat, Message
from convmodel.data.reading.problems import Problems
from convmodel.errors import ConversationError

CHAT = [
    "[2024-05-01 15:05] Ann: did the post come  ",
    "[2024-05-01 15:06] Me:  ",
    ">  ",
    "> did the post come  ",
    "> or not  ",
    "",
    "it did  ",
    "",
    "two parcels  ",
    "(- Ann: 👍, Bob: 🎉 -)  ",
    "[2024-05-01 15:07] Ann: ![](./media/a.jpg)  ",
    "[2024-05-01 15:08:59] Me: the key ![key.png](./media/key%20one.png)  ",
    "[2024-05-01 15:09] Ann: bye  ",
]


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes an export of some lines."""

    def write(*lines: str, name: str = "Ann/chat.md") -> Path:
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text("\n".join(lines), encoding="utf-8")
        return path

    return write


def only(path: Path, problems: Problems | None = None) -> Chat:
    """The one chat of a file."""
    [chat] = signal.read(path, problems or Problems())
    return chat


def test_a_chat(write: Callable[..., Path]) -> None:
    path = write(*CHAT)

    chat = only(path)

    assert chat.name == "Ann"
    assert chat.messages == [
        Message("Ann", "did the post come", datetime(2024, 5, 1, 15, 5), f"{path}:1"),
        Message("Me", "it did\n\ntwo parcels", datetime(2024, 5, 1, 15, 6), f"{path}:2", ("quote",)),
        Message("Me", "the key", datetime(2024, 5, 1, 15, 8, 59), f"{path}:12"),
        Message("Ann", "bye", datetime(2024, 5, 1, 15, 9), f"{path}:13"),
    ]
    assert chat.dropped == {"media": 1}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Ann: (This message was deleted)", "deleted message"),
        ("Ann: Missed voice call  ", "system message"),
        ("Me: Outgoing video call (accepted, 2m 5s)  ", "system message"),
        ("No-Sender:   ", "system message"),
        ("Ann:   \n(( 🙂 ))", "media"),
        ("Ann: [🙂](../exported_stickers/a/b.webp)  ", "media"),
        ("Ann: [plan.pdf](./media/plan.pdf)  ", "media"),
        ("Ann:   ", "empty message"),
    ],
)
def test_what_nobody_says_is_counted(write: Callable[..., Path], text: str, reason: str) -> None:
    chat = only(write(f"[2024-05-01 15:05:01] {text}", *CHAT[-1:]))

    assert [message.text for message in chat.messages] == ["bye"]
    assert chat.dropped == {reason: 1}


@pytest.mark.parametrize(
    "text", ["> 3 is more", "a > b\n> c", "see [the map](https://a.b)", "(- 1 -)", "call me (( now"]
)
def test_speech_is_kept(write: Callable[..., Path], text: str) -> None:
    kept = only(write(f"[2024-05-01 15:05:01] Ann: so\n{text}  ")).messages[0].text

    assert kept == f"so\n{text}"


def test_it_is_told_from_whatsapp_by_its_markdown(write: Callable[..., Path]) -> None:
    stripped = [line.rstrip() for line in CHAT]
    plain = ["[2023-10-25 15:05:11] Ann: one", "[2023-10-25 15:06:11] Bob: two"]

    assert recognised(write(*CHAT, name="a.txt")) is FORMATS["signal"]
    assert recognised(write(*stripped, name="b.txt")) is FORMATS["signal"]
    assert recognised(write(*plain, name="c.md")) is FORMATS["signal"]
    assert recognised(write(*plain, name="d.txt")) is FORMATS["whatsapp"]
    assert len(next(whatsapp.read(write(*plain, name="d.txt"), Problems())).messages) == 2


@pytest.mark.parametrize("line", ["[2024-05-01, 15:07] Bob: and me", "12:30 - Ann: hi", "25/10/2023, 15:05 - Bob: hi"])
def test_an_unknown_beginning_is_a_problem(write: Callable[..., Path], line: str) -> None:
    path = write(CHAT[0], line, "more", CHAT[-1])
    problems = Problems("skip")

    assert [message.text for message in only(path, problems).messages] == ["did the post come", "bye"]
    assert problems.count == 1
    with pytest.raises(ConversationError, match=r"chat\.md:2: this line begins like a message"):
        only(path)


def test_a_file_without_messages_is_an_error(write: Callable[..., Path]) -> None:
    with pytest.raises(
        ConversationError, match=r"chat\.md:1: no line is a message of Signal, .*begins with 'Dear diary'"
    ):
        only(write("", "Dear diary"))
