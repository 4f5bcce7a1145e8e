"""KakaoTalk: the texts of computers and phones, the table, and what KakaoTalk itself writes."""

from datetime import datetime
from pathlib import Path

import pytest

from convmodel.data.importing.exports.formats import FORMATS, recognised
from convmodel.data.importing.exports.kakaotalk import read
from convmodel.data.importing.exports.messages import Chat
from convmodel.data.reading.problems import Problems
from convmodel.errors import ConversationError

COMPUTER = """서연 님과 카카오톡 대화
저장한 날짜 : 2024-05-02 10:00:00

--------------- 2024년 5월 1일 수요일 ---------------
[민준] [오후 3:05] 택배 왔어
둘째 줄: 여기
[서연] [오전 12:06] 왔어
민준님이 나갔습니다.
--------------- 2024년 5월 2일 목요일 ---------------
[민준] [15:07] 좋아
"""
ANDROID = """서연 님과 카카오톡 대화
저장한 날짜 : 2024년 5월 2일 오전 10:00


2024년 5월 1일 오후 3:05
2024년 5월 1일 오후 3:05, 민준 : 택배 왔어
둘째 줄: 여기
2024년 5월 1일 오전 12:06, 서연 : 왔어
2024년 5월 1일 오후 3:06, 민준님이 나갔습니다.
2024년 5월 2일 오후 3:07, 민준 : 좋아
"""
IPHONE = """서연 님과 카카오톡 대화
저장한 날짜 : 2024. 5. 2. 오전 10:00

2024년 5월 1일 수요일
2024. 5. 1. 오후 3:05, 민준 : 택배 왔어
둘째 줄: 여기
2024. 5. 1. 오전 12:06, 서연 : 왔어
2024. 5. 1. 15:06: 민준님이 나갔습니다.
2024. 5. 2. 15:07, 민준 : 좋아
"""
TABLE = """Date,User,Message
2024-05-01 15:05:00,"민준","택배 왔어
둘째 줄: 여기"
2024-05-01 15:06:00,"서연","왔어"
2024-05-01 15:06:30,"민준","민준님이 나갔습니다."
2024-05-02 15:07:00,"민준","좋아"
"""


def read_chat(folder: Path, content: str, name: str = "Kakao.txt", problems: Problems | None = None) -> Chat:
    path = folder / name
    path.write_text(content, encoding="utf-8")
    assert recognised(path) is FORMATS["kakaotalk"]
    [chat] = read(path, problems or Problems())
    return chat


@pytest.mark.parametrize(
    ("content", "name"),
    [(COMPUTER, "a.txt"), (ANDROID, "b.txt"), (IPHONE, "c.txt"), (TABLE, "d.csv"), ("\ufeff" + TABLE, "e.csv")],
)
def test_each_form(tmp_path: Path, content: str, name: str) -> None:
    chat = read_chat(tmp_path, content, name)

    assert [(message.speaker, message.text) for message in chat.messages] == [
        ("민준", "택배 왔어\n둘째 줄: 여기"),
        ("서연", "왔어"),
        ("민준", "좋아"),
    ]
    assert (chat.messages[0].time, chat.messages[2].time) == (datetime(2024, 5, 1, 15, 5), datetime(2024, 5, 2, 15, 7))
    assert chat.dropped == {"system message": 1}
    assert chat.name == ("서연" if "저장" in content else name[0])


def test_half_past_midnight_is_the_first_hour(tmp_path: Path) -> None:
    assert read_chat(tmp_path, COMPUTER).messages[1].time == datetime(2024, 5, 1, 0, 6)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("사진", "media"),
        ("사진 3장", "media"),
        ("동영상", "media"),
        ("이모티콘", "media"),
        ("파일: 지도.pdf", "media"),
        ("삭제된 메시지입니다.", "deleted message"),
        ("보이스톡 해요", "system message"),
        ("페이스톡 3:21", "system message"),
        ("톡게시판 '공지': 내일 모임\n열 시", "system message"),
        ("톡게시판 '투표 종료': 점심", "system message"),
        ("", "empty message"),
        ("사진 보내줘", None),
        ("보이스톡 할까", None),
        ("톡게시판 봤어?", None),
    ],
)
def test_kakaotalks_own_words(tmp_path: Path, text: str, reason: str | None) -> None:
    chat = read_chat(tmp_path, f"{ANDROID}2024년 5월 2일 오후 3:08, 민준 : {text}\n")

    assert (chat.messages[-1].text == text) == (reason is None)
    assert chat.dropped == {"system message": 1} if reason is None else chat.dropped[reason] >= 1


@pytest.mark.parametrize("text", ["민준님이 방장 " * 20_000, "[" + "] [" * 300_000, "민준님이 초대 " * 20_000])
def test_a_long_message_with_parts_of_notices_is_speech(tmp_path: Path, text: str) -> None:
    chat = read_chat(tmp_path, f"{ANDROID}2024년 5월 2일 오후 3:08, 민준 : hi\n{text}\n")

    assert chat.messages[-1].text == f"hi\n{text.strip()}"


@pytest.mark.parametrize(
    "line",
    [
        "민준님이 서연님을 초대했습니다.",
        "민준님이 민준님이 서연님을 초대하였습니다. 안녕",
        "방장 민준님이 서연님을 부방장으로 하여 관리자가 되었습니다.",
        "민준님이 방장에서 해제했습니다.",
        "민준님이 나갔습니다.",
    ],
)
def test_notices_of_members_are_no_speech(tmp_path: Path, line: str) -> None:
    chat = read_chat(tmp_path, COMPUTER.replace("민준님이 나갔습니다.", line))

    assert chat.dropped == {"system message": 1}


@pytest.mark.parametrize(
    ("line", "wrong"),
    [
        ("2024년 13월 1일 오후 3:05, 민준 : 안녕", "month must be in 1..12"),
        ("2024년 5월 2일 낮 3:05, 민준 : 안녕", "its date or clock is not in the form of the other lines"),
        ("[민준] [3:05 PM] 안녕", "its date or clock is not in the form of the other lines"),
        ("2024년 5월 2일 오후 3:75, 민준 : 안녕", "minute must be in 0..59"),
    ],
)
def test_a_dated_line_that_cannot_be_read_is_never_speech(tmp_path: Path, line: str, wrong: str) -> None:
    problems = Problems("skip")

    chat = read_chat(tmp_path, f"{ANDROID}{line}\nmore\n", problems=problems)

    assert chat.messages[-1].text == "좋아"
    assert problems.messages[0].startswith(f"{tmp_path}/Kakao.txt:11: ")
    assert wrong in problems.messages[0]
    with pytest.raises(ConversationError, match=r"Kakao\.txt:11: "):
        read_chat(tmp_path, f"{ANDROID}{line}\n")


def test_a_message_of_another_program_is_never_speech(tmp_path: Path) -> None:
    path = tmp_path / "Kakao.txt"
    path.write_text(f"{ANDROID}25/10/2023, 15:04 - 민준: 안녕\n", encoding="utf-8")

    with pytest.raises(ConversationError, match=r"Kakao\.txt:11: .*not in the form of the other lines"):
        list(read(path, Problems()))


def test_text_before_the_first_message_is_a_problem(tmp_path: Path) -> None:
    with pytest.raises(
        ConversationError, match=r"Kakao\.txt:1: 'Hello' cannot be read \(no message stands before it\)"
    ):
        read_chat(tmp_path, f"Hello\n{ANDROID}")
    with pytest.raises(ConversationError, match="no day stands before it"):
        read_chat(tmp_path, "[민준] [오후 3:05] 택배 왔어\n")


def test_a_damaged_table_is_a_problem(tmp_path: Path) -> None:
    problems = Problems("skip")

    chat = read_chat(tmp_path, TABLE + 'soon,"민준","안녕"\na,b\n2024-05-02 15:08:00,"민준","x', "a.csv", problems)

    assert len(chat.messages) == 3
    assert problems.count == 3
