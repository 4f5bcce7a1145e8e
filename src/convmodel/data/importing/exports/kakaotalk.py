"""Chats of KakaoTalk, in Korean: the text that a phone or a computer saves, and the computer's CSV.

Owns: the three forms, and KakaoTalk's own words among the messages.
"""

import csv
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from io import StringIO
from pathlib import Path

from convmodel.data.importing.exports.heads import head_of, unknown_heads
from convmodel.data.importing.exports.json_fields import iso_time
from convmodel.data.importing.exports.messages import Chat, Message
from convmodel.data.importing.exports.text_lines import add_unrecognised, first_lines
from convmodel.data.reading.decoding import read_text
from convmodel.data.reading.problems import Problems
from convmodel.errors import ConversationError

_HEADER = "Date,User,Message"
_CLOCK = r"(?:(?P<half>오전|오후) )?(?P<hour>\d{1,2}):(?P<minute>\d\d)"
# A computer writes the day once, and the clock in each line.
_DAY = re.compile(r"(?:-{5,} )?(\d{4})년 (\d{1,2})월 (\d{1,2})일(?: [월화수목금토일]요일)?(?: -{5,})?")
_COMPUTER = re.compile(rf"\[(?P<name>.+?)\] \[{_CLOCK}\] (?P<text>.*)")
_PHONE = re.compile(
    r"(?P<year>\d{4})(?:년|\.) (?P<month>\d{1,2})(?:월|\.) (?P<day>\d{1,2})(?:일|\.) "
    rf"{_CLOCK}(?:, (?P<name>.+?) : (?P<text>.*)|[,:] (?P<notice>.*)|)"
)
_DATED = re.compile(r"\d{4}(?:년|\.) ?\d{1,2}(?:월|\.) ?\d{1,2}(?:일|\.).*\d:\d\d|\[(?>.+?\] \[).*\d:\d\d.*\]")
_TITLE = re.compile(r"(?P<name>.*?) ?(?:님과 )?카카오톡 대화")
_SAVED = re.compile(r"저장한 날짜 : .*")

_MEDIA = re.compile(r"사진(?: \d+장)?|동영상|\(?이모티콘\)?|음성메시지|(?:파일|지도|연락처|샵검색|삼성뮤직) ?: .*")
_DELETED = re.compile(r"삭제된 메시지입니다\.?|(?:채팅방 관리자가 )?메시지(?:를 가렸|가 삭제되었)습니다\.?")
_CALL = re.compile(
    r"(?:보이스톡|페이스톡|그룹콜|그룹 보이스톡|그룹 페이스톡|라이브톡) ?(?:해요|부재중|취소|응답없음|종료|시작|\d).*"
)
# Before `.*` the first place of a word is as good as any other: atomic groups try no further ones.
_NOTICE = re.compile(
    r".+님이 (?:들어왔습니다|나갔습니다)\..*|(?>.+?님이 ).*초대(?:했|하였)습니다\..*|.+님을 내보냈습니다\."
    r"|.*운영정책을 위반한 메시지로 .*|(?>.+?님이 )(?>.*?(?:방장|부방장|관리자)).*(?:되었습니다|해제했습니다)\."
    r"|톡게시판 '[^'\n]+': ?[\s\S]*"  # a notice, poll or shared post of the chat's board
)

_begins_a_message = unknown_heads(())


@dataclass(slots=True)
class _Entry:
    time: datetime
    name: str  # empty for a notice
    lines: list[str]
    line: int


def matches(path: Path) -> bool:
    """Returns whether a file begins as one of KakaoTalk's forms."""
    lines = first_lines(path)[:10]
    if path.suffix.casefold() == ".csv":
        return lines[:1] == [_HEADER]
    named = [match for line in lines if (match := _COMPUTER.fullmatch(line) or _PHONE.fullmatch(line))]
    return any(match["name"] for match in named)


def read(path: Path, problems: Problems) -> Iterator[Chat]:
    """Reads the one chat of a file.

    Raises:
        ConversationError: If the file cannot be read, or has a bad line and problems are errors.
    """
    text = read_text(path)
    chat = Chat(path.stem)
    lines = text.split("\n")
    if title := next((match for line in lines[:3] if (match := _TITLE.fullmatch(line.strip()))), None):
        chat.name = title["name"] or chat.name
    is_table = path.suffix.casefold() == ".csv"
    entries = list((_of_table if is_table else _of_lines)(lines, path, problems))
    if not entries and not problems.count:
        add_unrecognised(problems, str(path), lines, "no line is a message of KakaoTalk in Korean")
    for entry in entries:
        result = _message(entry, f"{path}:{entry.line}")
        if isinstance(result, str):
            chat.dropped[result] += 1
        else:
            chat.messages.append(result)
    yield chat


def _of_table(lines: Sequence[str], path: Path, problems: Problems) -> Iterator[_Entry]:
    rows = csv.reader(StringIO("\n".join(lines)), strict=True)
    try:
        next(rows)
        for row in rows:
            place = f"{path}:{rows.line_num}"
            if len(row) != 3:
                problems.add(f"{place}: {len(row)} values instead of date, user and message: correct the line")
                continue
            try:
                yield _Entry(iso_time(row[0], "Date"), row[1].strip(), [row[2]], rows.line_num)
            except ConversationError as error:
                problems.add(f"{place}: {error}: correct the line")
    except csv.Error as error:
        problems.add(f"{path}:{rows.line_num}: not CSV ({error}): export the chat again")


def _of_lines(lines: Sequence[str], path: Path, problems: Problems) -> Iterator[_Entry]:
    day: date | None = None
    entry: _Entry | None = None
    for number, line in enumerate(lines, 1):
        try:
            start = _start(line, number, day)
            if start is None and entry is None and line.strip() and not _is_header(line):
                raise ValueError("no message stands before it")
        except ValueError as error:
            problems.add(f"{path}:{number}: {line[:60]!r} cannot be read ({error}): correct or remove the line")
            start = day  # what follows continues this line, not the message before it
            if entry:
                yield entry
            entry = None
        if isinstance(start, _Entry):
            if entry:
                yield entry
            entry, day = start, start.time.date()
        elif start:
            day = start
        elif entry:
            entry.lines.append(line)
    if entry:
        yield entry


def _start(line: str, number: int, day: date | None) -> _Entry | date | None:
    """Returns the entry or the day that begins in a line; None if the line continues what stands before it."""
    if written := _DAY.fullmatch(line):
        return date(*map(int, written.groups()))
    phone = _PHONE.fullmatch(line)
    if phone:
        day = date(int(phone["year"]), int(phone["month"]), int(phone["day"]))
        if not phone["name"] and not phone["notice"]:
            return day
    match = phone or _COMPUTER.fullmatch(line)
    if match:
        if day is None:
            raise ValueError("no day stands before it")
        return _Entry(_time(day, match), match["name"] or "", [match["text"] or ""], number)
    if _DATED.match(line) or head_of(line, number) or _begins_a_message(line):
        raise ValueError("its date or clock is not in the form of the other lines")
    is_notice = day and _NOTICE.fullmatch(line)
    return _Entry(datetime(day.year, day.month, day.day), "", [], number) if day and is_notice else None


def _is_header(line: str) -> bool:
    return bool(_TITLE.fullmatch(line.strip()) or _SAVED.fullmatch(line))


def _time(day: date, match: re.Match[str]) -> datetime:
    hour = int(match["hour"])
    if match["half"]:
        hour = hour % 12 + 12 * (match["half"] == "오후")
    return datetime(day.year, day.month, day.day, hour, int(match["minute"]))


def _message(entry: _Entry, place: str) -> Message | str:
    text = "\n".join(entry.lines).strip()
    if not entry.name or _CALL.fullmatch(text) or _NOTICE.fullmatch(text):
        return "system message"
    if _DELETED.fullmatch(text):
        return "deleted message"
    if _MEDIA.fullmatch(text):
        return "media"
    return Message(entry.name, text, entry.time, place) if text else "empty message"
