"""The chat exports that are recognised, by name.

Owns: the list of formats. Each format has a module of its own.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from convmodel.data.importing.exports.messages import Chat
from convmodel.data.reading.problems import Problems


@dataclass(frozen=True, slots=True)
class Format:
    """One program's chat export: its name for `--format`, and what to export, for help texts."""

    name: str
    what: str

    def matches(self, path: Path) -> bool:
        """Returns whether a file or folder is such an export."""
        return bool(self._module().matches(path))

    def read(self, path: Path, problems: Problems) -> Iterator[Chat]:
        """Yields the chats of a file or folder."""
        chats: Iterator[Chat] = self._module().read(path, problems)
        return chats

    def _module(self) -> Any:
        # On first use, since help texts need the names alone, and modules compile many patterns.
        return import_module(f"convmodel.data.importing.exports.{self.name.replace('-', '_')}")


FORMATS = {
    name: Format(name, what)
    for name, what in (
        # Before WhatsApp's, whose lines may look the same.
        ("signal", "`chat.md` of signal-export"),
        ("whatsapp", "the text or zip of `Export chat`, of iOS or Android"),
        ("telegram", "`result.json` of Telegram Desktop, of one chat or the whole account"),
        ("discord", "JSON of DiscordChatExporter, a file or a folder"),
        ("slack", "the export's folder or zip, or one channel of it"),
        ("messenger", "a conversation's folder of Facebook's or Instagram's download, or one `message_1.json`"),
        ("line", "the text that LINE sends"),
        ("kakaotalk", "the text or CSV that KakaoTalk saves, in Korean"),
        ("google-chat", "`messages.json` of Google Takeout, or a folder of them"),
        ("chatgpt", "`conversations.json` of ChatGPT's, Claude's or DeepSeek's data export"),
        ("sillytavern", "a chat's `.jsonl` file"),
        # Last, since other formats' text may look like it.
        ("plain", "any text with `Name: text` lines"),
    )
}
"""The formats, in the order in which they are tried."""


def recognised(path: Path) -> Format | None:
    """Returns the format of a file or folder; None if it is not a known chat export."""
    return next((format for format in FORMATS.values() if format.matches(path)), None)
