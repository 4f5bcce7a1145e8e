"""The summary of an import: what was read, what was left out and why, and what was written.

Owns: these counts, and the explanation of an import that leaves nothing.
"""

import re
from collections import Counter
from dataclasses import dataclass, field, fields
from typing import Any

from convmodel.data.importing.carry_over import CarryOver
from convmodel.data.importing.exports.messages import Chat
from convmodel.data.reading.messages import nobody

_PLURAL = re.compile(r"\b(message|reaction|quote|version)\b")


@dataclass(slots=True)
class ImportSummary:
    """Counts of what was read, what was left out and why, and what was written.

    Attributes:
        formats: Files (or folders that are one export) by format or shape.
        entries: Messages of chat exports, and rows of other data.
        dropped_entries: Entries that were left out, by reason.
        dropped_parts: Parts that were left out of messages, by kind.
        carried: What rows of messages had beside plain text, and how it is treated.
        problems: Entries that could not be read and were left out.
        speakers: Messages in chat exports by speaker.
        speaker_turns: Turns in all conversations by speaker, before they are renamed or left out.
        first_words: The beginning of each speaker's first message.
        conversations: Conversations before cleaning.
        masked: Masked pieces of personal data, by kind.
        written: Conversations by file.
        turns: Turns in all files.
        enough_shares: If valid or test is too small to compare models on: shares with which they are not, if any are.
        notes: Notes for the user, such as the gap and the split that were chosen.
    """

    formats: Counter[str] = field(default_factory=Counter)
    entries: int = 0
    dropped_entries: Counter[str] = field(default_factory=Counter)
    dropped_parts: Counter[str] = field(default_factory=Counter)
    carried: CarryOver = field(default_factory=CarryOver)
    problems: int = 0
    first_problems: list[str] = field(default_factory=list)
    speakers: Counter[str] = field(default_factory=Counter)
    speaker_turns: Counter[str] = field(default_factory=Counter)
    first_words: dict[str, str] = field(default_factory=dict)
    conversations: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    masked: Counter[str] = field(default_factory=Counter)
    written: dict[str, int] = field(default_factory=dict)
    turns: int = 0
    enough_shares: tuple[float, ...] | None = None
    notes: list[str] = field(default_factory=list)
    _noted: set[str] = field(default_factory=set, repr=False)

    def add_chat(self, chat: Chat) -> None:
        """Counts the entries of a chat and what was left out of it, and adds its notes that no chat before it had."""
        self.entries += chat.entries
        self.dropped_entries += chat.dropped
        self.dropped_parts.update(part for message in chat.messages for part in message.without)
        new = [note for note in dict.fromkeys(chat.notes) if note not in self._noted]
        self.notes += new
        self._noted.update(new)

    def to_dict(self) -> dict[str, Any]:
        """Returns the summary for JSON."""
        values = {item.name: getattr(self, item.name) for item in fields(self) if not item.name.startswith("_")}
        values["carried"] = self.carried.to_dict()
        return {name: dict(value) if isinstance(value, Counter) else value for name, value in values.items()}

    def why_nothing(self, me: str | None = None) -> str:
        """Explains why no conversation is left, for the error; `me` is the speaker to learn."""
        reasons = [f"{count:,} {reason}" for reason, count in self.dropped.most_common()]
        if self.problems:
            first = f", the first because of: {self.first_problems[0]}"
            reasons.append(f"{self.problems:,} rows could not be read{first}")
        read = f"{_counted(self.entries, 'message')} were read"
        if left_out := [_counted(count, reason) for reason, count in self.dropped_entries.most_common()]:
            listed = " and ".join(filter(None, [", ".join(left_out[:-1]), left_out[-1]]))
            read += f"; {listed} were left out"
        if not self.conversations:
            return f"none is left: {'; '.join([read, *reasons])}"
        rules = f"{self.conversations:,} conversations is left ({', '.join(reasons)}): relax the rules"
        if me is not None and me not in self.speaker_turns:
            return f"none of {rules}; {nobody([me], self.speaker_turns)}"
        return f"none of {rules} ({read})" if left_out else f"none of {rules}"


def _counted(count: int, reason: str) -> str:
    plural = reason if count == 1 else _PLURAL.sub(r"\1s", reason, count=1)
    return f"{count:,} {plural}"
