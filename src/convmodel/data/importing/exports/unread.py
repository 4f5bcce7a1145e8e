"""Files that no reader takes: what they look like, and how to bring them in.

Owns: the forms of other programs that are known by sight, and the advice for each. Reads no message.
"""

import json
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from convmodel.data.importing.exports.archive import Outline, outline
from convmodel.data.importing.exports.text_lines import first_lines

EASY = (
    "write it as lines of `Name: text` in a .txt file, or as CSV with the columns conversation_id, speaker and text; "
    "see docs/data.md#other-exports"
)
"""The two easy ways in."""

_TELEGRAM_JSON = "export the chat from Telegram Desktop (Export chat history), in the format Machine-readable JSON"
_DISCORD_JSON = "export the channel with DiscordChatExporter, as JSON"
_LOOKED_AT = 40  # lines
_CLOCK = r"\d{1,2}:\d\d(:\d\d)?"


@dataclass(frozen=True, slots=True)
class _Start:
    """The start of a file: its non-blank lines, and the keys of its JSON, or of its first line of JSON."""

    lines: list[str]
    keys: Outline

    def any_line(self, pattern: str) -> bool:
        return any(re.search(pattern, line) for line in self.lines)


@dataclass(frozen=True, slots=True)
class _Program:
    """An export that is not read: whose it is, how to know it, and what to do instead."""

    name: str
    looks: Callable[[_Start], bool]
    way: str = ""


def _line(pattern: str) -> Callable[[_Start], bool]:
    return lambda start: start.any_line(pattern)


def _items(name: str, *keys: str) -> Callable[[_Start], bool]:
    return lambda start: name in start.keys[1] and start.keys[3].issuperset(keys)


_PROGRAMS = (
    _Program("a page of Telegram's export", _line(r'class="page_wrap|<div class="message default'), _TELEGRAM_JSON),
    _Program("a page of DiscordChatExporter", _line("chatlog__|DiscordChatExporter"), _DISCORD_JSON),
    _Program("a page of HTML", _line(r"(?i)^\s*<(!doctype html|html)"), "export the chat as JSON or text"),
    _Program("the CSV of DiscordChatExporter", _line(r'^"?AuthorID"?,"?Author"?,"?Date"?,"?Content'), _DISCORD_JSON),
    _Program("the text of DiscordChatExporter", _line(r"^Guild: "), _DISCORD_JSON),
    _Program(
        "text copied from Telegram",
        _line(rf"^.+, \[\d{{1,4}}[./-]\d\d?[./-]\d+,? {_CLOCK}( [AP]M)?\]:?$"),
        _TELEGRAM_JSON,
    ),
    _Program("text copied from Discord", _line(rf"^.{{1,40}} — .*{_CLOCK}( [AP]M)?$"), _DISCORD_JSON),
    _Program("the text of imessage-exporter", _line(rf"^[A-Z][a-z]{{2}} \d\d?, \d{{4}} +{_CLOCK} [AP]M")),
    _Program("messages of iMessage", lambda start: {"guid", "is_from_me"} <= start.keys[1]),
    _Program("KakaoTalk's export in a language other than Korean", _line("^KakaoTalk Chats with")),
    _Program("QQ's export", _line("^消息记录|^消息对象:|^消息分组:")),
    _Program("text copied from WeChat", _line(r"^\S.* \d{4}[-/]\d\d?[-/]\d\d? \d\d?:\d\d:\d\d$")),
    _Program("Skype's export", lambda start: "MessageList" in start.keys[3]),
    _Program(
        "Discord's copy of one's data (only one's own messages)",
        lambda start: {"ID", "Timestamp", "Contents"} <= start.keys[2] or start.any_line("^ID,Timestamp,Contents,"),
        _DISCORD_JSON,
    ),
    _Program("Element's export of Matrix", _items("messages", "sender", "origin_server_ts")),
    _Program("the export of Google Hangouts", _items("conversations", "conversation", "events")),
    _Program("Grok's export", _items("conversations", "conversation", "responses")),
    _Program("Open WebUI's export", lambda start: {"chat", "user_id"} <= start.keys[2] and "history" in start.keys[3]),
    _Program("an export of Google's My Activity", lambda start: {"header", "title", "products"} <= start.keys[2]),
    _Program("Snapchat's export", lambda start: {"From", "Media Type", "Created"} <= start.keys[3]),
    _Program("X's archive", _line(r"^window\.YTD\.")),
)

# What the lines of an unknown text may be nearest to.
_NEAREST = (
    (
        r"^\W{0,3}\d{1,4}[./\-年]\s?\d{1,2}[./\-月]",
        "lines begin with a date, as WhatsApp's `31/12/2021, 21:41 - Ann: text`",
    ),
    (rf"^\W{{0,3}}{_CLOCK}\b", "lines begin with a clock, as LINE's `21:41`, name and text with tabs between them"),
    (
        r"^[^\s:\uff1a][^:\uff1a]{0,39}[:\uff1a]",
        "some lines are `Name: text`, but fewer than half, or no two names recur",
    ),
)


def unread(path: Path) -> str | None:
    """Returns why a file is not read and what to do, if it is of a program that is known by sight; else None."""
    start = _start(path)
    program = next((program for program in _PROGRAMS if program.looks(start)), None)
    if program is None:
        return None
    ways = f"{program.way}; or {EASY}" if program.way else EASY
    return f"{path}: this looks like {program.name}, which is not read ({_begins(start)}): {ways}"


def unknown(path: Path, formats: Iterable[str]) -> str:
    """Returns why a text of no known form is not read: how it begins, what it is nearest to, and the easy ways in."""
    start = _start(path)
    nearest = next((hint for pattern, hint in _NEAREST if start.any_line(pattern)), None)
    return (
        f"{path} is not a known chat export ({', '.join(formats)}): {_begins(start)}"
        f"{f'; {nearest}' if nearest else ''}: {EASY}"
    )


def _start(path: Path) -> _Start:
    lines = first_lines(path)[:_LOOKED_AT]
    keys = outline(path)
    with suppress(ValueError, RecursionError):
        if lines and not any(keys) and isinstance(first := json.loads(lines[0]), dict):
            keys[1] = set(first)
    return _Start(lines, keys)


def _begins(start: _Start) -> str:
    if not start.lines:
        return "it is empty, or not text"
    first = start.lines[0].strip()
    if first[0] in "{[":  # JSON may be indented
        first = "".join(line.strip() for line in start.lines)
    return f"it begins with {first[:80]!r}"
