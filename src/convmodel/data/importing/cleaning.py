"""Which conversations are fit for training, and why the others are not.

Owns: the rules of cleaning, their order, and the account of what they left out. Changes nothing but what it masks.
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
    """What a conversation must be to be kept. Pinned turns are context: they count as characters, not as turns.

    Attributes:
        min_turns: How many turns it has at least.
        max_turns: How many it has at most; None for any number.
        max_chars: How many characters all its turns have at most; None for any number.
        min_speakers: How many people speak in it at least.
        deduplicate: Whether one that repeats an earlier one is left out.
        near_duplicates: The Jaccard similarity of word triples from which on it repeats an earlier one, from 0.5 to 1;
            None to leave out exact duplicates alone.
        redact: Whether personal data is masked.

    Raises:
        ConfigError: If a number makes no sense.

    Example:
        >>> CleaningRules(max_turns=100).min_turns
        2
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
                raise ConfigError(f"{name} is {value!r}: it must be a whole number from 1 on")
        if self.max_turns is not None and self.max_turns < self.min_turns:
            raise ConfigError(
                f"max_turns is {self.max_turns}, less than min_turns, which is {self.min_turns}: nothing would be left"
            )
        checked_near(self.near_duplicates, "near_duplicates")


class Cleaner:
    """Leaves out what the rules forbid, counts it by reason, and masks personal data if it is told to.

    The rules are asked in this order: length, speakers, exact duplicates, near-duplicates; masks come last, so what
    repeats what is judged by the original text, and once more, for exact repeats, by the masked one. Of those that
    repeat each other the first is kept. It reads one conversation at a time and remembers what it has seen, so that
    several files are cleaned by one cleaner.

    Args:
        rules: What to keep; by default as `CleaningRules` says.
        people: Names that are masked in every conversation, whether their owners speak in it or not.

    Attributes:
        rows_in: How many conversations were read.
        rows_out: How many of them were kept.
        dropped: How many were left out, by reason.

    Raises:
        MissingExtraError: If near-duplicates are to be left out, and datasketch is not installed.

    Example:
        >>> cleaner = Cleaner(CleaningRules(near_duplicates=None))
        >>> kept = cleaner.clean([Conversation(["Hi"]), Conversation(["Hi", "Yes"]), Conversation(["hi", "yes"])])
        >>> [conversation.turns for conversation in kept]
        [('Hi', 'Yes')]
        >>> dict(cleaner.dropped)
        {'fewer than 2 turns': 1, 'exact duplicate': 1}
    """

    def __init__(self, rules: CleaningRules | None = None, *, people: Iterable[str] = ()) -> None:
        self.rules = rules or CleaningRules()
        self.rows_in = 0
        self.rows_out = 0
        self.dropped: Counter[str] = Counter()
        self._duplicates = Duplicates(self.rules.near_duplicates) if self.rules.deduplicate else None
        # Masks make equal what differed in a name or an address only.
        self._masked = Duplicates(None) if self.rules.deduplicate else None
        self._redactor = Redactor(people=people) if self.rules.redact else None

    @property
    def masked(self) -> Counter[str]:
        """How many pieces of personal data were masked, by kind."""
        return self._redactor.counts if self._redactor else Counter()

    def clean(self, conversations: Iterable[Conversation]) -> Iterator[Conversation]:
        """Yields the conversations that are kept, in their order."""
        for conversation in conversations:
            self.rows_in += 1
            reason = self._unfit(conversation) or self._repeated(conversation)
            if reason:
                self.dropped[reason] += 1
                continue
            masked = self._redactor.redact(conversation) if self._redactor else conversation
            if self._redactor and self._masked and self._masked.seen(masked):
                self.dropped["exact duplicate once masked"] += 1
                continue
            self.rows_out += 1
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
