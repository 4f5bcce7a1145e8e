"""Cleaning: which conversations are used for training, and why the others are not.

Owns: the rules, their order, and the counts of what they left out. Changes only what it masks.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from convmodel.conversation import Conversation
from convmodel.data.importing.deduplication import NEAR, Duplicates, checked_near
from convmodel.data.importing.redaction import Redactor
from convmodel.errors import ConfigError


@dataclass(frozen=True, slots=True)
class CleaningRules:
    """What a conversation must satisfy to be kept. Pinned turns are context: they count as characters, not as turns.

    Attributes:
        max_chars: Maximum number of characters in all turns; None for no limit.
        near_duplicates: The Jaccard similarity of word trigrams from which two conversations are duplicates, from 0.5
            to 1; None to leave out exact duplicates only, which needs no datasketch.
        redact: Whether to mask personal data.

    Raises:
        ConfigError: If a value is out of range.
    """

    min_turns: int = 2
    max_turns: int | None = None
    max_chars: int | None = None
    min_speakers: int = 2
    deduplicate: bool = True
    near_duplicates: float | None = NEAR
    redact: bool = False

    def __post_init__(self) -> None:
        for name in ("min_turns", "max_turns", "max_chars", "min_speakers"):
            value = getattr(self, name)
            if value is None and name.startswith("max"):
                continue
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ConfigError(f"{name} is {value!r}: it must be a positive integer")
        if self.max_turns is not None and self.max_turns < self.min_turns:
            raise ConfigError(
                f"max_turns is {self.max_turns}, less than min_turns, which is {self.min_turns}: nothing would be left"
            )
        checked_near(self.near_duplicates, "near_duplicates")


class Cleaner:
    """Leaves out what the rules exclude, counts it by reason, and optionally masks personal data.

    The rules are applied in this order: length, speakers, exact duplicates, near-duplicates. Masking comes last, so
    duplicates are found in the original text; exact ones once more in the masked text. Of duplicates the first is kept.
    A cleaner reads one conversation at a time and remembers all it has seen, so use one for several files.

    `people` are names to mask in every conversation, even if these people do not speak in it. `rows_in` counts the
    conversations read, and `dropped` those left out, by reason.
    """

    def __init__(self, rules: CleaningRules | None = None, *, people: Iterable[str] = ()) -> None:
        self.rules = rules or CleaningRules()
        self.rows_in = 0
        self.dropped: Counter[str] = Counter()
        self._duplicates = Duplicates(self.rules.near_duplicates) if self.rules.deduplicate else None
        # Masking makes equal what differed only in a name or an address.
        self._masked = Duplicates(None) if self.rules.deduplicate else None
        self._redactor = Redactor(people=people) if self.rules.redact else None

    @property
    def masked(self) -> Counter[str]:
        """Number of masked pieces of personal data, by kind."""
        return self._redactor.counts if self._redactor else Counter()

    def clean(self, conversations: Iterable[Conversation]) -> Iterator[Conversation]:
        """Yields the conversations that are kept, in their order."""
        yield from self.clean_renamed((conversation, ()) for conversation in conversations)

    def clean_renamed(self, renamed: Iterable[tuple[Conversation, Iterable[str]]]) -> Iterator[Conversation]:
        """Like `clean`; each conversation comes with the names that its speakers had, to mask in its turns."""
        for conversation, names in renamed:
            self.rows_in += 1
            reason = self._unfit(conversation) or self._repeated(conversation)
            if reason:
                self.dropped[reason] += 1
                continue
            masked = self._redactor.redact(conversation, names) if self._redactor else conversation
            if self._redactor and self._masked and self._masked.seen(masked):
                self.dropped["exact duplicate once masked"] += 1
                continue
            yield masked

    def _unfit(self, conversation: Conversation) -> str | None:
        rules, turns = self.rules, len(conversation.turns) - conversation.pinned
        if turns < rules.min_turns:
            return f"fewer than {_count(rules.min_turns, 'turn')}"
        if rules.max_turns is not None and turns > rules.max_turns:
            return f"longer than {_count(rules.max_turns, 'turn')}"
        if rules.max_chars is not None and sum(map(len, conversation.turns)) > rules.max_chars:
            return f"longer than {_count(rules.max_chars, 'character')}"
        if len(set(conversation.turn_speakers[conversation.pinned :])) < rules.min_speakers:
            return f"fewer than {_count(rules.min_speakers, 'speaker')}"
        return None

    def _repeated(self, conversation: Conversation) -> str | None:
        match = self._duplicates.seen(conversation) if self._duplicates else None
        if match is None:
            return None
        return "exact duplicate" if match.exact else "near-duplicate"


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
