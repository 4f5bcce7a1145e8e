"""LINE's exported chats: a title, a line for each day, and `21:41<tab>Ann<tab>text` below it.

Owns: the lines of such a file, in English, Japanese and other languages with this layout. `dates` finds the order of
day and month.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from convmodel.data.importing.exports.dates import CLOCK, DATE, WrittenDate, clock_of
from convmodel.data.importing.exports.messages import Chat
from convmodel.data.importing.exports.text_lines import (
    DatedChat,
    DatedEntry,
    add_unrecognised,
    first_lines,
    read_dated,
)
from convmodel.data.reading.decoding import read_text
from convmodel.data.reading.problems import Problems

FORMS = "a day such as `2021/12/31(Fri)` and below it lines of `21:41<tab>Ann<tab>text`"
"""The expected lines, for error messages."""

_TITLE = re.compile(r"\ufeff?\[LINE\]\s?(?P<title>.+)")
_WITH = re.compile(
    r"(?:Chat history (?:with|in)\s|[与與](?=.+的聊天))?(?P<name>.+?)(?:と?のトーク履歴|的聊天[记記][录錄])?"
)
_SAVED = re.compile(r"[^\t]{1,30}[:\uff1a]\s?\d+[/.-]\d+[/.-]\d+,?\s.*\d:\d\d.*")
_DAY = re.compile(
    rf"(?:(?P<first>[^\W\d]+)\.?,\s)?{DATE}(?:\s?[(\uff08]\s?(?P<inside>[^\W\d]+)\.?\s?[)\uff09]|\s(?P<last>[^\W\d]+)\.?)?\s*"
)
_ENTRY = re.compile(rf"{CLOCK}\t(?P<rest>.*)", re.IGNORECASE)
_WEEKDAYS = {
    word: number
    for week in (
        ("mon", "tue", "wed", "thu", "fri", "sat", "sun"),
        "月火水木金土日",
        "一二三四五六日",
        "월화수목금토일",
    )
    for number, word in enumerate(week)
}

_MEDIA = re.compile(
    r"\[(?:stickers?|photos?|videos?|voice messages?|audio|files?|contacts?|location|music|gif|gifts?"
    r"|スタンプ|写真|画像|動画|ボイスメッセージ|ファイル|連絡先|位置情報|ミュージック|ギフト"
    r"|貼圖|照片|影片|語音訊息|檔案|贴图|视频|语音消息|文件)\]|\(emoji\)|\[(?:albums?|アルバム|notes?|ノート)\].*",
    re.IGNORECASE,
)
_NOTICE = re.compile(
    r"☎.*|.{0,60}(?:unsent a message|メッセージの送信を取り消しました)[.。]?", re.IGNORECASE | re.DOTALL
)


def matches(path: Path) -> bool:
    """Returns whether a file begins as LINE's export of a chat: with its title or a day, and entries below it."""
    lines = first_lines(path)
    has_start = bool(lines and (_TITLE.fullmatch(lines[0]) or _day(lines[0], 1)))
    return has_start and any(_ENTRY.fullmatch(line) for line in lines[:20])


def read(path: Path, problems: Problems) -> Iterator[Chat]:
    """Reads the chats of an export: one, or one per title in the file.

    Raises:
        ConversationError: If the file cannot be read, or has a bad line and problems are errors.
    """
    lines = read_text(path).split("\n")
    if not any(map(_ENTRY.fullmatch, lines)):
        add_unrecognised(problems, str(path), lines, f"no message of LINE, which needs {FORMS}")
        return
    parts = [part for part in _parts(lines, path, problems) if part.entries]
    yield from read_dated(parts, str(path), problems, _speaker_and_text)


def _parts(lines: Sequence[str], path: Path, problems: Problems) -> Iterator[DatedChat]:
    part, day = DatedChat(Chat(path.stem)), None
    for number, line in enumerate(lines, 1):
        # Concatenated exports have titles in the middle; a message that looks like a title has no `Saved on` below it.
        title = _TITLE.fullmatch(line)
        if title and (day is None or any(map(_SAVED.fullmatch, lines[number : number + 1]))):
            yield part
            part, day = DatedChat(Chat(_chat_name(title["title"]))), None
        elif new_day := _day(line, number):
            day = new_day
        elif (match := _ENTRY.fullmatch(line)) and day:
            date = replace(day, clock=clock_of(match), halved=bool(match["before"] or match["after"]))
            part.entries.append(DatedEntry(date, number, [match["rest"]]))
        elif match:
            problems.add(f"{path}:{number}: there is no day above this message: begin with {FORMS}")
        elif part.entries:
            part.entries[-1].lines.append(line)
        elif line.strip() and not _SAVED.fullmatch(line):
            problems.add(f"{path}:{number}: text before the first message: remove the line, or write {FORMS}")
    yield part


def _day(line: str, number: int) -> WrittenDate | None:
    match = _DAY.fullmatch(line)
    if not match:
        return None
    word = (match["first"] or match["inside"] or match["last"] or "").casefold()
    word = re.sub("^(?:星期|週|周)", "", word)
    weekday = _WEEKDAYS.get(word[:3], _WEEKDAYS.get(word[:1]))
    # A date alone, or with another word, may be a line of a message.
    return WrittenDate(match["date"], number, weekday=weekday) if weekday is not None or match["inside"] else None


def _speaker_and_text(entry: str) -> tuple[str, str] | str:
    speaker, _, text = entry.partition("\t")
    speaker, text = speaker.strip(), _unquoted(text.strip())
    if not text or not speaker or _NOTICE.fullmatch(text):  # LINE writes its own text in place of a name
        return "system message"
    return "media" if _MEDIA.fullmatch(text) else (speaker, text)


def _unquoted(text: str) -> str:
    """Removes the quotation marks that LINE puts around a text of several lines."""
    if "\n" in text and len(text) > 2 and text[0] == text[-1] == '"':
        return text[1:-1].replace('""', '"').strip()
    return text


def _chat_name(title: str) -> str:
    match = _WITH.fullmatch(title.strip())
    return match["name"] if match else title.strip()
