"""What every chat export is read into: messages of named people, with their times.

Owns: the form that all readers of exports share. Knows no file format.
"""

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a chat; its text is never empty, and without the marks of the export.

    Attributes:
        time: Without a zone: UTC if the export has a zone, otherwise as written; None if it has no times.
        place: `file:line` or `file: message 12`, for errors and ids.
        without: The kinds of parts that were left out of the text, such as a quote.

    Example:
        >>> Message("Ann", "Black or green?", datetime(2026, 11, 2, 12, 30), "tea.log:2").speaker
        'Ann'
    """

    speaker: str
    text: str
    time: datetime | None
    place: str
    without: tuple[str, ...] = ()


@dataclass(slots=True)
class Chat:
    """One chat of an export, sorted by time: every entry is either a message here or counted in `dropped`.

    Attributes:
        dropped: Number of entries left out, by reason (`system message`, `media`, `deleted message`, ...).
        notes: Notes about the file for the user: how its dates were read and why.
        parted: Whether a long pause in it begins a new conversation.
        folder: Set by the import: the start of its messages' places that is not a part of ids, where the export lies on
            this machine.

    Example:
        >>> chat = Chat("tea", [Message("Ann", "Black or green?", None, "tea.log:2")])
        >>> chat.dropped["system message"] += 1
        >>> chat.entries
        2
    """

    name: str
    messages: list[Message] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    parted: bool = True
    folder: str = ""

    @property
    def entries(self) -> int:
        """Number of entries in the export."""
        return len(self.messages) + self.dropped.total()
