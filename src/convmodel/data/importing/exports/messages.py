"""What every chat export is read into: messages of named people, with their times.

Owns: the form that all readers of exports share. Knows no file format.
"""

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a chat.

    Attributes:
        speaker: Who wrote it, as the export names them.
        text: What it says; never empty, without the export's own marks.
        time: When it was sent: UTC where the export tells the zone, otherwise as written; always without a time zone.
            None where the export has no times.
        place: Where it stands, as `file:line` or `file: message 12`.
    """

    speaker: str
    text: str
    time: datetime | None
    place: str


@dataclass(slots=True)
class Chat:
    """One chat of an export, in order of time.

    Every entry of the export is either a message here or counted in `dropped`.

    Attributes:
        name: The chat's name, for messages about it.
        messages: What was said.
        dropped: How many entries were left out, by reason (`system message`, `media`, `deleted message`, ...).
        notes: What was found out about the file, for the user: how its dates were read and why.
        parted: Whether a long pause in it begins a new conversation.
    """

    name: str
    messages: list[Message] = field(default_factory=list)
    dropped: Counter[str] = field(default_factory=Counter)
    notes: list[str] = field(default_factory=list)
    parted: bool = True

    @property
    def entries(self) -> int:
        """How many entries the export had."""
        return len(self.messages) + self.dropped.total()
