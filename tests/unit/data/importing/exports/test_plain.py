"""Plain transcripts: which words before a colon are names, and where chats end."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from convmodel.data.importing.exports import plain
from convmodel.data.importing.exports.messages import Message
from convmodel.data.reading.problems import Problems
from convmodel.errors import ConversationError

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes a transcript of some lines."""

    def write(*lines: str, name: str = "talk.txt") -> Path:
        path = tmp_path / name
        path.write_text("\n".join(lines), encoding="utf-8")
        return path

    return write


def said(path: Path) -> list[tuple[str, str]]:
    """Speaker and text of each message of all chats."""
    return [(message.speaker, message.text) for chat in plain.read(path, Problems()) for message in chat.messages]


def test_a_transcript_of_three_chats() -> None:
    path = FIXTURES / "plain.txt"

    chats = list(plain.read(path, Problems()))

    assert [chat.name for chat in chats] == ["plain", "plain#2", "plain#3"]
    assert [chat.messages for chat in chats] == [
        [
            Message("Ann", "Did you read the recipe?", None, f"{path}:1"),
            Message(
                "Dr. Bob",
                "Yes.\n\nTwo things were odd:\nhttps://example.org/cake: the picture was missing",
                None,
                f"{path}:2",
            ),
            Message("Ann", "Which one", None, f"{path}:6"),
        ],
        [
            Message("Dr. Bob", "Shall we start over?", None, f"{path}:8"),
            Message("Ann", "Please.", None, f"{path}:9"),
        ],
        [Message("Ann", "Bye", None, f"{path}:13")],
    ]
    assert {tuple(chat.notes) for chat in chats} == {
        (
            "names found: Ann, Dr. Bob",
            "taken for text, not for names, as each begins only one line: Two things were odd (line 4)",
        )
    }


@pytest.mark.parametrize(
    "name",
    [
        "Ann",
        "ann",
        "Ann Lee",
        "Dr. Bob",
        "J. R. Lee",
        "ann_92",
        "O'Brien",
        "Jean-Luc",
        "花",
        "Speaker 1",
        "Ludwig van B",
    ],
)
def test_names(write: Callable[..., Path], name: str) -> None:
    assert said(write(f"{name}: Hi", "there", "Zoe: Yes: no")) == [(name, "Hi\nthere"), ("Zoe", "Yes: no")]


def test_other_forms_of_a_name(write: Callable[..., Path]) -> None:
    path = write("**Ann:** Hi", "**Bob**: Yes", "花\uff1aこんにちは", "  Ann:\tBye", "Bob :  well")

    assert said(path) == [("Ann", "Hi"), ("Bob", "Yes"), ("花", "こんにちは"), ("Ann", "Bye"), ("Bob", "well")]


def test_a_name_of_the_file_needs_no_space_after_its_colon(write: Callable[..., Path]) -> None:
    path = write("Ann: Hi", "Bob 2: Yes", "Ann:Bye", "https: no", "https://a.b", "Bob 2::)", "Bob 2:30", "Cem:no")

    assert said(path) == [
        ("Ann", "Hi"),
        ("Bob 2", "Yes"),
        ("Ann", "Bye"),
        ("https", "no\nhttps://a.b"),
        ("Bob 2", ":)\nBob 2:30\nCem:no"),
    ]


@pytest.mark.parametrize(
    "line",
    [
        "https://example.org",
        "at 10:30 we left",
        "Yes, but: no",
        "I left. Then: nothing",
        "What? He: no",
        "and then she said: no",
        "Here is the thing: no",
        ": no",
        "--: no",
        f"{'x' * 41}: no",
    ],
)
def test_what_is_no_name_continues_the_message(write: Callable[..., Path], line: str) -> None:
    assert said(write("Ann: Hi", line, "Bob: Yes")) == [("Ann", f"Hi\n{line}"), ("Bob", "Yes")]


@pytest.mark.parametrize("turns", [plain.LONG - 2, plain.LONG - 1, plain.LONG + 20])
def test_in_a_long_file_a_name_opens_more_than_one_line(write: Callable[..., Path], turns: int) -> None:
    lines = [f"{'Ann' if number % 2 else 'Bob'}: turn {number}" for number in range(turns)]
    path = write(*lines, "Note: it rains")

    [chat] = plain.read(path, Problems())

    if turns + 1 < plain.LONG:
        assert chat.messages[-1].speaker == "Note"
        assert chat.notes == ["names found: Bob, Ann, Note"]
    else:
        assert chat.messages[-1].text == f"turn {turns - 1}\nNote: it rains"
        assert chat.notes == [
            "names found: Bob, Ann",
            f"taken for text, not for names, as each begins only one line: Note (line {turns + 1})",
        ]


@pytest.mark.parametrize("separator", ["---", "***", "===", "----------", " --- "])
def test_separators_begin_a_chat(write: Callable[..., Path], separator: str) -> None:
    path = write(separator, "Ann: Hi", separator, separator, "Bob: Yes", separator)

    chats = list(plain.read(path, Problems()))

    assert [(chat.name, chat.entries, chat.messages[0].place) for chat in chats] == [
        ("talk", 1, f"{path}:2"),
        ("talk#2", 1, f"{path}:5"),
    ]


@pytest.mark.parametrize("line", ["--", "- - -", "--- x", "-=-", "+++"])
def test_other_lines_do_not(write: Callable[..., Path], line: str) -> None:
    assert said(write("Ann: Hi", line, "Bob: Yes")) == [("Ann", f"Hi\n{line}"), ("Bob", "Yes")]


def test_lines_before_any_name_are_problems(write: Callable[..., Path]) -> None:
    path = write("A talk", "", "Ann: Hi", "---", "later that day", "Bob: Yes")
    problems = Problems("skip")

    assert [chat.entries for chat in plain.read(path, problems)] == [1, 1]
    assert problems.messages == [
        f"{path}:1: no name before this text: begin the line with `Name: `, or remove it",
        f"{path}:5: no name before this text: begin the line with `Name: `, or remove it",
    ]
    with pytest.raises(ConversationError, match=f"^{re.escape(str(path))}:1: no name before this text"):
        said(path)


def test_a_message_without_text_is_counted(write: Callable[..., Path]) -> None:
    [chat] = plain.read(write("Ann:", "", "Bob: Yes", "Ann: "), Problems())

    assert [message.text for message in chat.messages] == ["Yes"]
    assert chat.dropped == {"empty message": 2}


def test_a_file_without_names_is_an_error(write: Callable[..., Path]) -> None:
    with pytest.raises(ConversationError, match=r"talk\.txt:1: no line has the form `Name: text`.*'Dear diary'"):
        said(write("", "Dear diary"))


@pytest.mark.parametrize(
    "line",
    [
        "[2024-05-01 15:05] Ann: Hi",
        "[15:05] Ann: Hi",
        "15:05 Ann: Hi",
        "12:30 - Ann: Hi",
        "(15:05) Bob: Hi",
        "2023/10/25 下午3:05 - 小明: Hi",
        "25/10/2023, 15:05 - Cem: Hi",
        "15:05\tAnn\tHi",
    ],
)
def test_a_line_with_a_time_and_a_name_is_a_problem_and_never_text(write: Callable[..., Path], line: str) -> None:
    path = write("Ann: one", line, "more", "Bob: two", "Ann: three", "Bob: four")
    problems = Problems("skip")

    [chat] = plain.read(path, problems)

    assert [message.text for message in chat.messages] == ["one", "two", "three", "four"]
    assert problems.count == 1
    with pytest.raises(ConversationError, match=r"talk\.txt:2: this line begins like a message with a time"):
        said(path)


TALK = ["Ann: Hi", "Bob: Yes", "Ann: No", "Bob: Bye"]


@pytest.mark.parametrize("name", ["talk.txt", "talk.TXT", "talk.md", "talk.log", "talk.text", "talk"])
def test_transcripts_are_recognised(write: Callable[..., Path], name: str) -> None:
    assert plain.matches(write(*TALK, name=name))
    assert plain.matches(write(*TALK, *["more"] * 4, name=name))


@pytest.mark.parametrize(
    ("lines", "name"),
    [
        (TALK, "talk.csv"),
        (TALK, "talk.jsonl"),
        ([*TALK, *["more"] * 5], "talk.txt"),
        (TALK[:3], "talk.txt"),
        ([*TALK[:1] * 4, "Bob: Yes"], "talk.txt"),
        (['{"a": 1}', '{"a": 2}', '{"b": 1}', '{"b": 2}'], "talk.txt"),
        (["31/12/2021, 21:41 - Ann: Hi", "31/12/2021, 21:42 - Bob: Hi"] * 2, "talk.txt"),
    ],
)
def test_other_files_are_not(write: Callable[..., Path], lines: list[str], name: str) -> None:
    assert not plain.matches(write(*lines, name=name))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    turns=st.lists(
        st.tuples(
            st.sampled_from(["Ann", "Bob Lee", "花"]),
            st.lists(st.sampled_from(["Hi", "one: two", "- a list", "see https://a.b: it", "1:1"]), min_size=1),
        ),
        min_size=1,
        max_size=15,
    )
)
def test_what_is_written_is_read_back(tmp_path: Path, turns: list[tuple[str, list[str]]]) -> None:
    path = tmp_path / "talk.txt"
    turns = [turn for turn in turns for _ in range(2)]  # so that each name opens two lines
    turns = [(name, [text for text in texts if not text.startswith("one")] or ["Hi"]) for name, texts in turns]
    path.write_text("\n".join(f"{name}: " + "\n".join(texts) for name, texts in turns), encoding="utf-8")

    assert said(path) == [(name, "\n".join(texts)) for name, texts in turns]


def test_dates_that_nobody_knows_are_no_names(tmp_path: Path) -> None:
    path = tmp_path / "chat.txt"
    path.write_text("".join(f"5.3.2023 klo 9.{10 + i // 4} - {'AB'[i % 2]}: hello {i}\n" for i in range(12)))

    assert not plain.matches(path)
