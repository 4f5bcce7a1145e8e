"""The chat exports that are recognised, by name: the built-in formats, and those of installed packages.

Owns: the list of formats, and the order in which they are tried. Each built-in format has a module of its own.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import cast

from convmodel.data.importing.exports.installed import ExportReader, InstalledReader
from convmodel.data.importing.exports.messages import Chat
from convmodel.data.reading.problems import Problems
from convmodel.data.reading.shapes import AUTO, SHAPES
from convmodel.errors import PluginError
from convmodel.files.plugins import EXPORTS, Plugin, find_plugins, warn


@dataclass(frozen=True, slots=True)
class Format:
    """One program's chat export: its name for `--format`, what to export, and the plugin if it is not built in."""

    name: str
    what: str
    plugin: Plugin | None = None

    def matches(self, path: Path) -> bool:
        """Returns whether a file or folder is such an export."""
        return bool(self._reader().matches(path))

    def read(self, path: Path, problems: Problems) -> Iterator[Chat]:
        """Yields the chats of a file or folder."""
        return iter(self._reader().read(path, problems))

    def _reader(self) -> ExportReader:
        if self.plugin:
            return InstalledReader(self.plugin)
        # On first use, since help texts need the names alone, and modules compile many patterns.
        module = import_module(f"convmodel.data.importing.exports.{self.name.replace('-', '_')}")
        return cast(ExportReader, module)


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
"""The built-in formats, in the order in which they are tried; those of installed packages come before the last."""

_RESERVED = frozenset((AUTO, *FORMATS, *SHAPES))


def installed_formats() -> list[Format]:
    """Returns the formats of installed packages, which are not imported; one that cannot be used raises when it is."""
    return [_of(plugin) for plugin in find_plugins(EXPORTS, _RESERVED)]


def _of(plugin: Plugin) -> Format:
    return Format(plugin.name, f"of {plugin.origin}", plugin)


def format_names() -> list[str]:
    """Returns the names of all formats, those of installed packages at the end."""
    installed = [plugin.name for plugin in find_plugins(EXPORTS, _RESERVED) if not plugin.problem]
    return [*FORMATS, *installed]


def find_format(name: str) -> Format | None:
    """Returns the format of a name; None if there is none. Installed packages are looked up only if they could help."""
    if name in _RESERVED:
        return FORMATS.get(name)
    return next((format for format in installed_formats() if format.name == name), None)


def recognised(path: Path) -> Format | None:
    """Returns the format of a file or folder; None if it is not a known chat export.

    An installed reader that cannot be used is left out with a warning.
    """
    *specific, plain = FORMATS.values()
    if built_in := next((format for format in specific if format.matches(path)), None):
        return built_in
    for format in installed_formats():
        try:
            if format.matches(path):
                return format
        except PluginError as error:
            if format.plugin:
                warn(format.plugin, error)
    return plain if plain.matches(path) else None
