"""Readers of chat exports that installed packages add.

Owns: the interface of a reader, and the checks of what a reader from elsewhere returns. Knows no file format.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol, cast

from convmodel.data.importing.exports.json_fields import checked_text, sort_by_time
from convmodel.data.importing.exports.messages import Chat, Message
from convmodel.data.reading.problems import Problems
from convmodel.errors import ConversationError, ConvModelError
from convmodel.files.plugins import Plugin

_FUNCTIONS = ("matches", "read")


class ExportReader(Protocol):
    """Reads the chat exports of one program: a module with these two functions, or an object with these methods.

    An entry point of the group `convmodel.exports` names it; the entry point's name is the format's name.

    Example:
        >>> class TeaLog:
        ...     def matches(self, path):
        ...         return path.suffix == ".tea"
        ...
        ...     def read(self, path, problems):
        ...         yield Chat(path.stem, [Message("Ann", path.read_text(), None, f"{path}:1")])
        >>> TeaLog().matches(Path("kettle.tea"))
        True
    """

    def matches(self, path: Path) -> bool:
        """Returns whether a file or folder is such an export.

        It is called for every path that no built-in format but `plain` matches, so it should read little of a file. An
        OSError or a ValueError, such as from a file that is not text or not JSON, counts as no.
        """

    def read(self, path: Path, problems: Problems) -> Iterable[Chat]:
        """Returns the chats of an export.

        Each entry of the export becomes a message, is counted in its chat's `dropped`, or is passed to `problems.add`
        if it is malformed: an error, or with `--on-error skip` left out and counted.

        Raises:
            ConversationError: If the export as a whole cannot be read.
        """


@dataclass(frozen=True, slots=True)
class InstalledReader:
    """An export reader of an installed package, which is imported on first use and may have any fault."""

    plugin: Plugin

    def matches(self, path: Path) -> bool:
        """Returns whether a file or folder is such an export; if it cannot be read, it is not.

        Raises:
            PluginError: If the reader cannot be imported, has another interface, or fails.
        """
        reader = self._reader()
        try:
            return bool(reader.matches(path))
        except (OSError, ValueError):
            return False
        except Exception as error:
            raise self.plugin.failed(f"failed on {path}", error) from error

    def read(self, path: Path, problems: Problems) -> Iterator[Chat]:
        """Yields the chats of a file or folder, sorted by time where all messages have one.

        Raises:
            ConversationError: If the export cannot be read, or is malformed and problems are errors.
            PluginError: If the reader cannot be imported, has another interface, fails, or yields something else.
        """
        reader = self._reader()
        try:
            for chat in reader.read(path, problems):
                self._check(chat)
                if all(message.time for message in chat.messages):
                    sort_by_time(chat)
                yield chat
        except ConvModelError:
            raise
        except (OSError, UnicodeError) as error:
            raise ConversationError(f"{path} cannot be read: copy the export again, as UTF-8 ({error})") from error
        except Exception as error:
            raise self.plugin.failed(f"failed on {path}", error) from error

    def _reader(self) -> ExportReader:
        reader = self.plugin.load()
        where = self.plugin.entry_point.value
        if isinstance(reader, type):
            raise self.plugin.error(f"is the class {where}, instead of a module or an object")
        for name in _FUNCTIONS:
            if not callable(getattr(reader, name, None)):
                raise self.plugin.error(f"has no function {name} in {where}")
        return cast(ExportReader, reader)

    def _check(self, chat: Any) -> None:
        if not isinstance(chat, Chat):
            raise self.plugin.error(f"returned a {type(chat).__name__} instead of a Chat")
        if fault := _fault_of_chat(chat):
            raise self.plugin.error(f"returned a Chat whose {fault}")
        for message in cast(list[Any], chat.messages):
            if not isinstance(message, Message):
                raise self.plugin.error(f"returned a {type(message).__name__} instead of a Message")
            if fault := _fault(message):
                raise self.plugin.error(f"returned a message whose {fault} ({message.place})")


def _fault_of_chat(chat: Chat) -> str:
    """Returns what is wrong with a chat beside its messages; empty if nothing is."""
    parts: tuple[tuple[str, Any, type], ...] = (
        ("messages are", chat.messages, list),
        ("dropped is", chat.dropped, Counter),
        ("notes are", chat.notes, list),
    )
    faults = (
        f"{name} a {type(value).__name__}, not a {kind.__name__}"
        for name, value, kind in parts
        if not isinstance(value, kind)
    )
    return next(faults, "")


def _fault(message: Message) -> str:
    """Returns what is wrong with a message; empty if nothing is."""
    for name in ("speaker", "text", "place"):
        try:
            if not checked_text(getattr(message, name), name).strip():
                return f"{name} is empty"
        except ConversationError as error:
            return str(error)
    without: Any = message.without
    if not isinstance(without, tuple):
        return f"without is a {type(without).__name__}, not a tuple"
    time: Any = message.time
    if not isinstance(time, datetime | None):
        return f"time is {type(time).__name__}, not datetime"
    return "time has a zone, instead of being in UTC without one" if time and time.tzinfo else ""
