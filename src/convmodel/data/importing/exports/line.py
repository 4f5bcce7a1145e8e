"""LINE's exported chats: a title, a line for each day, and `21:41<tab>Ann<tab>text` below it.

Owns: the lines of such a file, in English, Japanese and other languages with this layout. `dates` finds the order of
day and month.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

from convmodel.data.importing.exports.clocks import CLOCK, WORDS, clock_of
from convmodel.data.importing.exports.dates import DATE, WrittenDate
from convmodel.data.importing.exports.heads import MARKS, head_of, unknown_heads
from convmodel.data.importing.exports.messages import Chat
from convmodel.data.importing.exports.text_lines import (
    DatedChat,
    DatedEntry,
    add_unrecognised,
    collect_entries,
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
_SAVED = re.compile(r"[^\t]{1,30}[:\uff1a\s]\s?\d+[/.-]\d+[/.-]\d+,?\s.*\d:\d\d.*")
_WORD = r"[^\W\d_][^\s\d.,()\uff08\uff09]*"  # also in scripts with vowel signs, which are not letters
_DAY = re.compile(
    rf"(?:(?P<first>{_WORD})\.?,\s)?{DATE}"
    rf"(?:\s?[(\uff08]\s?(?P<inside>{_WORD})\.?\s?[)\uff09]|\s?(?P<last>{_WORD})\.?)?\s*"
)
_LIKE_A_DAY = re.compile(r"(?=.*(?<!\d)(?:\d{1,2})(?!\d))(?=.*(?<!\d)(?:\d{4})(?!\d))[^\n\t]{6,40}")
_ENTRY = re.compile(rf"(?:(?P<before>{WORDS})\s?)?{CLOCK}(?:[^\S\t]?(?P<after>{WORDS}))?\t(?P<rest>.*)")
_ENGLISH = ("monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday")
_WEEKDAYS = {
    letter: day
    for week in ("一二三四五六日", "一二三四五六天", "月火水木金土日", "월화수목금토일")
    for day, letter in enumerate(week)
}
_WEEKDAY = re.compile(rf"(?:星期|週|周)?([{''.join(_WEEKDAYS)}])(?:曜日?|요일)?")

# What LINE writes in brackets instead of a medium, in any language; a file, a place and an album have a name after it.
_MEDIA = re.compile(
    r"\[(?-i:(?![a-z]))[^\W\d_][^\[\]\n\d]{1,19}\]|\(emoji\)|\[[^\[\]\n]{1,20}\]\s[^\n]*\.\w{2,5}|\[null\].*"
    r"|\[(?:albums?|アルバム|앨범|notes?|ノート|노트|polls?|投票|투표|相簿|相册|記事本|location|位置情報|位置訊息|위치)\].*",
    re.IGNORECASE,
)
_NOTICE = re.compile(
    r"☎.*|Auto-reply\s.*|Message unsent\.?|メッセージの送信を取り消しました[.。]?"
    r"|.{0,60}(?:unsent a message|(?:joined|left) the (?:group|chat)|メッセージの送信を取り消しました"
    r"|がグループ(?:に参加|を退会|から退会)しました|が退会しました|已收回訊息|收回了?(?:一则|一條)?(?:消息|訊息)|(?:加入|退出)(?:了)?(?:群組|群组|聊天)"
    r"|が.{1,40}を(?:グループに)?招待しました|が.{1,40}をグループから退会させました"
    r"|메시지가 취소되었습니다|님이 (?:나갔습니다|(?:그룹에 )?(?:들어왔|참가했|참여했)습니다|.{1,40}초대했습니다)"
    r"|ยกเลิกข้อความแล้ว|Đã thu hồi tin nhắn|hat (?:eine Nachricht zurückgezogen|die Gruppe verlassen)"
    r"|ist der Gruppe beigetreten"
    r")[.。]?",
    re.IGNORECASE | re.DOTALL,
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
    lines = [MARKS.sub("", line) for line in read_text(path).split("\n")]
    if not any(map(_ENTRY.fullmatch, lines)):
        add_unrecognised(problems, str(path), lines, f"no message of LINE, which needs {FORMS}")
        return
    chats = []
    for start, end in _blocks(lines):
        title = _TITLE.fullmatch(lines[start])
        chat = DatedChat(Chat(_chat_name(title["title"]) if title else path.stem))
        starts = _Starts(lines, range(start + 1 if title else start, end))
        chat.entries = collect_entries(lines, starts.indices, starts.begin, str(path), FORMS, problems)
        chats += [chat] if chat.entries else []
    yield from read_dated(chats, str(path), problems, _speaker_and_text)


def _blocks(lines: Sequence[str]) -> Iterator[tuple[int, int]]:
    """Yields where the lines of each chat start and end: each begins with its title."""
    start, has_day = 0, False
    for index, line in enumerate(lines):
        # A message that looks like a title has no `Saved on` below it.
        if _TITLE.fullmatch(line) and (not has_day or any(map(_SAVED.fullmatch, lines[index + 1 : index + 2]))):
            if index:
                yield start, index
            start, has_day = index, False
        has_day = has_day or _day(line, 0) is not None
    yield start, len(lines)


class _Starts:
    """What the lines of a chat begin: days, messages, or nothing.

    Attributes:
        indices: Indices of the lines.
    """

    def __init__(self, lines: Sequence[str], indices: range) -> None:
        self._lines, self.indices = lines, indices
        self._entries = {index: match for index in indices if (match := _ENTRY.fullmatch(lines[index]))}
        names = {match["rest"].partition("\t")[0].strip() for match in self._entries.values()} - {""}
        self._begins_a_message = unknown_heads(names)
        self._quoted = {index for entry in self._entries for index in self._quoted_after(entry)}
        self._day: WrittenDate | None = None

    def begin(self, index: int) -> DatedEntry | str | None:
        """Returns the entry that a line begins, or what is wrong with it; None if it continues another."""
        line = self._lines[index]
        if match := self._entries.get(index):
            return self._entry(match, index + 1)
        if index in self._quoted:
            return None
        if day := _day(line, index + 1) or self._day_by_its_place(index):
            self._day = day
            return ""
        if self._is_between(index) and _LIKE_A_DAY.fullmatch(line):
            self._day = None  # the messages below are not of the day before
            return f"this line stands where a day is expected: write it as {FORMS}"
        if head_of(line, 0) or self._begins_a_message(line):
            return f"this line begins like a message of another export: write {FORMS}, or indent it if it is text"
        return "" if _SAVED.fullmatch(line) and not self._day else None

    def _entry(self, match: re.Match[str], number: int) -> DatedEntry | str:
        clock = clock_of(match, (match["before"], match["after"]))
        if not self._day:
            return f"there is no day above this message: begin with {FORMS}"
        if clock.unknown:
            return f"{clock.unknown!r} beside the time is not a known word: correct it"
        return DatedEntry(replace(self._day, clock=clock), number, [match["rest"]])

    def _quoted_after(self, entry: int) -> range:
        """Returns the lines after an entry that are inside the quotation marks around its text."""
        text = self._entries[entry]["rest"].partition("\t")[2]
        quotes = text.count('"') if text.startswith('"') else 0
        for index in range(entry + 1, self.indices.stop if quotes % 2 else entry):
            if index in self._entries:
                break
            quotes += self._lines[index].count('"')
            if quotes % 2 == 0:
                return range(entry + 1, index + 1) if self._lines[index].rstrip().endswith('"') else range(0)
        return range(0)

    def _day_by_its_place(self, index: int) -> WrittenDate | None:
        """Reads a day with a word of an unknown language, where a day is expected."""
        match = _DAY.fullmatch(self._lines[index]) if self._is_between(index) else None
        return WrittenDate(match["date"], index + 1) if match and (match["first"] or match["last"]) else None

    def _is_between(self, index: int) -> bool:
        """Returns whether a line stands between a blank line, or the start, and a message, as days do."""
        return index + 1 in self._entries and (index == self.indices.start or not self._lines[index - 1].strip())


def _day(line: str, number: int) -> WrittenDate | None:
    match = _DAY.fullmatch(line)
    if not match:
        return None
    weekday = _weekday((match["first"] or match["inside"] or match["last"] or "").casefold())
    # A date alone, or with another word, may be a line of a message.
    return WrittenDate(match["date"], number, weekday=weekday) if weekday is not None or match["inside"] else None


def _weekday(word: str) -> int | None:
    if match := _WEEKDAY.fullmatch(word):
        return _WEEKDAYS[match[1]]
    return next((day for day, name in enumerate(_ENGLISH) if len(word) > 2 and name.startswith(word)), None)


def _speaker_and_text(entry: str) -> tuple[str, str, tuple[str, ...]] | str:
    speaker, _, text = entry.partition("\t")
    speaker, text = speaker.strip(), _unquoted(text.strip())
    if not text or not speaker or _NOTICE.fullmatch(text):  # LINE writes its own text in place of a name
        return "system message"
    return "media" if _MEDIA.fullmatch(text) else (speaker, text, ())


def _unquoted(text: str) -> str:
    """Removes the quotation marks that LINE puts around a text of several lines."""
    if "\n" in text and len(text) > 2 and text[0] == text[-1] == '"':
        return text[1:-1].replace('""', '"').strip()
    return text


def _chat_name(title: str) -> str:
    match = _WITH.fullmatch(title.strip())
    return match["name"] if match else title.strip()
