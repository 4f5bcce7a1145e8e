"""LINE: days, entries below them, texts of several lines, and what LINE itself says."""

import re
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from convmodel.data.importing.exports import line
from convmodel.data.importing.exports.messages import Chat, Message
from convmodel.data.reading.problems import Problems
from convmodel.errors import ConversationError

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    """Writes an export of some lines."""

    def write(*lines: str) -> Path:
        path = tmp_path / "chat.txt"
        path.write_text("\n".join(lines), encoding="utf-8")
        return path

    return write


def only(path: Path, problems: Problems | None = None) -> Chat:
    """The one chat of a file."""
    [chat] = line.read(path, problems or Problems())
    return chat


def test_an_english_export() -> None:
    path = FIXTURES / "line_english.txt"

    chat = only(path)

    assert chat.name == "Mia"
    assert chat.messages == [
        Message("Mia", "Are you awake?", datetime(2021, 12, 31, 21, 41), f"{path}:5"),
        Message("Noa", 'Yes.\nI said "soon":\n\nten minutes', datetime(2021, 12, 31, 21, 42), f"{path}:6"),
        Message("Mia", "Happy\tnew year", datetime(2022, 1, 1, 0, 6), f"{path}:17"),
    ]
    assert chat.dropped == {"media": 3, "system message": 3}
    assert chat.notes == ["dates read as month/day/year, as line 4 shows (12/31/2021)"]
    assert chat.entries == 9


def test_a_japanese_export() -> None:
    path = FIXTURES / "line_japanese.txt"

    chat = only(path)

    assert chat.name == "花"
    assert chat.messages == [
        Message("花", "もう寝た\uff1f", datetime(2021, 12, 31, 21, 41), f"{path}:5"),
        Message("空", "まだ。\nテレビ見てる", datetime(2021, 12, 31, 21, 42), f"{path}:6"),
        Message("空", "あけましておめでとう", datetime(2022, 1, 1, 0, 6), f"{path}:14"),
    ]
    assert chat.dropped == {"media": 2, "system message": 2}
    assert chat.entries == 7


@pytest.mark.parametrize(
    ("day", "date"),
    [
        ("2021/12/31(金)", (2021, 12, 31)),
        ("2021/12/31\uff08金\uff09", (2021, 12, 31)),
        ("2021/12/31(Fri)", (2021, 12, 31)),
        ("2021/12/31(ven)", (2021, 12, 31)),
        ("2021.12.31 Friday", (2021, 12, 31)),
        ("2021.12.31 金曜日", (2021, 12, 31)),
        ("2021.12.31 星期五", (2021, 12, 31)),
        ("2021/12/31週五", (2021, 12, 31)),
        ("2021/12/31周五", (2021, 12, 31)),
        ("2021/12/31 금요일", (2021, 12, 31)),
        ("2021/12/31(ศุกร์)", (2021, 12, 31)),
        ("Jum, 31/12/2021", (2021, 12, 31)),
        ("2564/12/31(Fri)", (2021, 12, 31)),
        ("2021/12/31 Fri", (2021, 12, 31)),
        ("Fri, 12/31/2021", (2021, 12, 31)),
        ("Fri, 31/12/2021", (2021, 12, 31)),
        ("Thu, 02/01/2024", (2024, 2, 1)),
        ("Tue, 02/01/2024", (2024, 1, 2)),
    ],
)
def test_each_form_of_day(write: Callable[..., Path], day: str, date: tuple[int, int, int]) -> None:
    path = write("[LINE] Chat history with Ann", "Saved on: 2024/02/03 10:00", "", day, "21:41\tAnn\tHi")

    assert line.matches(path)
    assert only(path).messages == [Message("Ann", "Hi", datetime(*date, 21, 41), f"{path}:5")]


@pytest.mark.parametrize(
    "clock", ["21:41", "9:41 PM", "09:41PM", "21:41pm", "午後9:41", "下午9:41", "晚上9:41", "오후 9:41", "रात 9:41"]
)
def test_each_form_of_time(write: Callable[..., Path], clock: str) -> None:
    path = write("2021/12/31(Fri)", f"{clock}\tAnn\tHi")

    assert line.matches(path)
    assert only(path).messages[0].time == datetime(2021, 12, 31, 21, 41)


@pytest.mark.parametrize(
    ("title", "name"),
    [
        ("[LINE] Chat history with Ann Lee", "Ann Lee"),
        ("[LINE] Chat history in Garden Club", "Garden Club"),
        ("\ufeff[LINE] 花とのトーク履歴", "花"),
        ("[LINE] 庭の会のトーク履歴", "庭の会"),
        ("[LINE] 與小明的聊天記錄", "小明"),
        ("[LINE] Something else", "Something else"),
    ],
)
def test_a_chat_is_named_by_its_title(write: Callable[..., Path], title: str, name: str) -> None:
    assert only(write(title, "", "2021/12/31(Fri)", "21:41\tAnn\tHi")).name == name


def test_without_a_title_a_chat_is_named_after_its_file(write: Callable[..., Path]) -> None:
    assert only(write("2021/12/31(Fri)", "21:41\tAnn\tHi")).name == "chat"


@pytest.mark.parametrize(
    ("entry", "reason"),
    [
        ("Ann\t[Sticker]", "media"),
        ("Ann\t[スタンプ]", "media"),
        ("Ann\t[Photo]", "media"),
        ("Ann\t[Video]", "media"),
        ("Ann\t[Voice message]", "media"),
        ("Ann\t[貼圖]", "media"),
        ("Ann\t[アルバム] 冬を作成しました", "media"),
        ("Ann\t☎ Call time 1:23", "system message"),
        ("Ann\t☎ 不在着信", "system message"),
        ("Ann\tYou unsent a message.", "system message"),
        ("\tメッセージの送信を取り消しました", "system message"),
        ("Ann joined the group", "system message"),
        ("Ann\tBob left the group", "system message"),
        ("Ann\tMessage unsent.", "system message"),
        ("Ann\tAuto-reply I am away", "system message"),
        ("Ann\t小紅已收回訊息", "system message"),
        ("Ann\t메시지가 취소되었습니다.", "system message"),
        ("Ann\t지영님이 나갔습니다.", "system message"),
        ("Ann\t지영님이 민수님을 초대했습니다.", "system message"),
        ("Ann\t次郎が太郎を招待しました。", "system message"),
        ("Ann\tJan hat eine Nachricht zurückgezogen", "system message"),
        ("Ann\tĐã thu hồi tin nhắn", "system message"),
        ("Ann\t[投票] いつ", "media"),
        ("Ann\t[앨범] (없음)", "media"),
        ("Ann\t[File] plan.pdf", "media"),
        ("Ann\t[null] https://maps.google.com/?q=1,1", "media"),
        ("Ann\t[Stiker]", "media"),
        ("Ann\t[사진]", "media"),
        ("Ann\t[รูป]", "media"),
        ("Ann\t", "system message"),
    ],
)
def test_what_nobody_says_is_counted(write: Callable[..., Path], entry: str, reason: str) -> None:
    chat = only(write("2021/12/31(Fri)", f"21:41\t{entry}", "", "2022/01/01(Sat)"))

    assert chat.messages == []
    assert chat.dropped == {reason: 1}


@pytest.mark.parametrize(
    ("lines", "text"),
    [
        (['"one', 'two"'], "one\ntwo"),
        (['"one', "", 'two"', ""], "one\n\ntwo"),
        (["one", "two"], "one\ntwo"),
        (['"one" two'], '"one" two'),
        (['"one"'], '"one"'),
        (['"one', "two"], '"one\ntwo'),
        (['"say ""one""', 'two"'], 'say "one"\ntwo'),
        (["[Photo] of us"], "[Photo] of us"),
        (["[laughs]"], "[laughs]"),
        (["Ann invited Bob to the party"], "Ann invited Bob to the party"),
        (["[笑]"], "[笑]"),
        (['"the days:', "", "2021/12/30(Thu)", '2022/01/01 Sat"'], "the days:\n\n2021/12/30(Thu)\n2022/01/01 Sat"),
        (["one", "2021-12-30 was nice"], "one\n2021-12-30 was nice"),
        (["one", "2021/12/30"], "one\n2021/12/30"),
        (["one", "[LINE] Chat history with Bob"], "one\n[LINE] Chat history with Bob"),
    ],
)
def test_texts(write: Callable[..., Path], lines: list[str], text: str) -> None:
    chat = only(write("2021/12/31(Fri)", "\n".join(["21:41\tAnn\t" + lines[0], *lines[1:]]), "21:42\tBob\tYes"))

    assert [message.text for message in chat.messages] == [text, "Yes"]


def test_each_title_begins_a_chat(write: Callable[..., Path]) -> None:
    one = ["[LINE] Chat history with Ann", "Saved on: 2022/01/02 10:00", "", "2021/12/31(Fri)", "21:41\tAnn\tHi", ""]
    other = ["[LINE] Chat history with Bob", "Saved on: 2022/01/02 10:00", "", "2022/01/01(Sat)", "8:00\tBob\tYes"]

    chats = list(line.read(write(*one, *other), Problems()))

    assert [(chat.name, [message.text for message in chat.messages]) for chat in chats] == [
        ("Ann", ["Hi"]),
        ("Bob", ["Yes"]),
    ]


@pytest.mark.parametrize(
    ("lines", "number", "message"),
    [
        (["2021/02/31(Fri)", "21:41\tAnn\tHi"], 2, "there is no 2021/02/31 21:41:00"),
        (["2021/12/31(Fri)", "25:41\tAnn\tHi"], 2, "there is no 2021/12/31 25:41:00"),
        (["21:41\tAnn\tHi"], 1, "there is no day above this message"),
        (["hello"], 1, "text before the first message"),
    ],
)
def test_bad_lines_are_problems(write: Callable[..., Path], lines: list[str], number: int, message: str) -> None:
    path = write(*lines, "2021/12/31(Fri)", "21:42\tBob\tYes")
    problems = Problems("skip")

    chat = only(path, problems)

    assert [message.text for message in chat.messages] == ["Yes"]
    assert (chat.entries, problems.count) == (1, 1)
    with pytest.raises(ConversationError, match=f"^{re.escape(str(path))}:{number}: {message}"):
        only(path)


def test_a_file_without_entries_is_an_error_that_shows_its_first_line(write: Callable[..., Path]) -> None:
    with pytest.raises(ConversationError, match=r"chat\.txt:1: no message of LINE, .*begins with 'Dear diary'"):
        only(write("", "Dear diary", "today"))


def test_entries_without_any_day_make_no_chat(write: Callable[..., Path]) -> None:
    problems = Problems("skip")

    assert list(line.read(write("21:41\tAnn\tHi", "21:42\tBob\tYes"), problems)) == []
    assert problems.count == 2


def test_days_that_contradict_each_other_are_an_error(write: Callable[..., Path]) -> None:
    path = write("Fri, 12/31/2021", "21:41\tAnn\tHi", "Fri, 31/12/2021", "21:41\tAnn\tHi")

    with pytest.raises(ConversationError, match=r"chat\.txt:1: the date 12/31/2021 is not in the same .* in line 3: "):
        only(path)


@pytest.mark.parametrize("text", ["", "[LINE] Chat history with Ann", "21:41\tAnn\tHi", "2021/12/31(Fri)\nHi"])
def test_other_files_are_no_exports(write: Callable[..., Path], text: str) -> None:
    assert not line.matches(write(text))


@pytest.mark.parametrize(
    "unknown",
    ["拂曉3:06\tBob\tYes", "26/01/2022, 09:05 - Bob: and the bill", "[12:30] Bob: hi", "12:30 Mia: hi"],
)
def test_an_unknown_beginning_is_a_problem_and_never_text(write: Callable[..., Path], unknown: str) -> None:
    path = write("2021/12/31(Fri)", "21:41\tMia\tHi", unknown, "more", "21:43\tBob\tBye")
    problems = Problems("skip")

    assert [message.text for message in only(path, problems).messages] == ["Hi", "Bye"]
    assert problems.count == 1
    with pytest.raises(ConversationError, match=r"chat\.txt:3: "):
        only(path)


@pytest.mark.parametrize("day", ["31 December 2021", "Fri, Dec 31, 2021", "วันศุกร์ที่ 31 ธันวาคม 2564", "2021/12/31"])
def test_messages_below_an_unknown_day_are_not_of_the_day_before(write: Callable[..., Path], day: str) -> None:
    path = write("2021/12/30(Thu)", "21:41\tMia\tHi", "", day, "21:43\tBob\tBye", "2022/01/01(Sat)", "21:44\tBob\tOh")
    problems = Problems("skip")

    assert [message.text for message in only(path, problems).messages] == ["Hi", "Oh"]
    assert problems.count == 2
    with pytest.raises(ConversationError, match=r"chat\.txt:4: this line stands where a day is expected"):
        only(path)
