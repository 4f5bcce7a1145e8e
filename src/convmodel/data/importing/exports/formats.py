"""The chat exports that are recognised, by name.

Owns: the list of formats. Each format has a module of its own.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from convmodel.data.importing.exports import (
    chatgpt,
    discord,
    google_chat,
    kakaotalk,
    line,
    messenger,
    plain,
    signal,
    sillytavern,
    slack,
    telegram,
    whatsapp,
)
from convmodel.data.importing.exports.messages import Chat
from convmodel.data.reading.problems import Problems


@dataclass(frozen=True, slots=True)
class Format:
    """One program's chat export: its name for `--format`, and what to export, for help texts."""

    name: str
    what: str
    matches: Callable[[Path], bool]
    read: Callable[[Path, Problems], Iterator[Chat]]


FORMATS = {
    name: Format(name, what, module.matches, module.read)
    for name, what, module in (
        # Before WhatsApp's, whose lines may look the same.
        ("signal", "`chat.md` of signal-export", signal),
        ("whatsapp", "the text or zip of `Export chat`, of iOS or Android", whatsapp),
        ("telegram", "`result.json` of Telegram Desktop, of one chat or the whole account", telegram),
        ("discord", "JSON of DiscordChatExporter, a file or a folder", discord),
        ("slack", "the export's folder or zip, or one channel of it", slack),
        (
            "messenger",
            "a conversation's folder of Facebook's or Instagram's download, or one `message_1.json`",
            messenger,
        ),
        ("line", "the text that LINE sends", line),
        ("kakaotalk", "the text or CSV that KakaoTalk saves, in Korean", kakaotalk),
        ("google-chat", "`messages.json` of Google Takeout, or a folder of them", google_chat),
        ("chatgpt", "`conversations.json` of ChatGPT's, Claude's or DeepSeek's data export", chatgpt),
        ("sillytavern", "a chat's `.jsonl` file", sillytavern),
        # Last, since other formats' text may look like it.
        ("plain", "any text with `Name: text` lines", plain),
    )
}
"""The formats, in the order in which they are tried."""


def recognised(path: Path) -> Format | None:
    """Returns the format of a file or folder; None if it is not a known chat export."""
    return next((format for format in FORMATS.values() if format.matches(path)), None)
