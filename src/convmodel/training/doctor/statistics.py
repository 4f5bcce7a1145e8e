"""What conversations are made of: how many turns and tokens, and whose.

Owns: counting in one pass, in memory that does not grow with the data.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from convmodel.conversation import Conversation
from convmodel.layout.sequence import LossOn, supervised_turns
from convmodel.layout.tokenizer import ConversationTokenizer

TOP = 20
"""Speakers that are named; the rest are counted together."""

OTHERS = "others"
"""What the rest are called."""

_NAMES = 10_000  # speakers that are told apart while counting: group chats have hundreds, forums millions


@dataclass(slots=True)
class Histogram:
    """How often each whole number occurred; exact, and as large as there are different numbers.

    Attributes:
        counts: How often each occurred.

    Example:
        >>> histogram = Histogram(Counter([1, 2, 2, 9]))
        >>> histogram.mean, histogram.percentile(50), histogram.percentile(100)
        (3.5, 2, 9)
    """

    counts: Counter[int] = field(default_factory=Counter)

    @property
    def mean(self) -> float:
        """The average; 0 of nothing."""
        return sum(value * count for value, count in self.counts.items()) / max(1, self.counts.total())

    def percentile(self, percent: float) -> int:
        """Returns the smallest number that so many percent do not exceed (the nearest rank); 0 of nothing."""
        wanted, seen = self.counts.total() * percent / 100, 0
        for value, count in sorted(self.counts.items()):
            seen += count
            if seen >= wanted:
                return value
        return 0

    def to_dict(self) -> dict[str, float]:
        """The numbers that describe it."""
        ranks = {"min": 0, "median": 50, "p90": 90, "p99": 99, "max": 100}
        return {"mean": self.mean} | {name: self.percentile(percent) for name, percent in ranks.items()}


@dataclass(slots=True)
class Statistics:
    """Counts of some conversations.

    Attributes:
        conversations: How many there are.
        turns: How many turns.
        tokens: How many tokens of text, separators not counted.
        turns_per_conversation: How long conversations are.
        tokens_per_turn: How long turns are.
        turns_by_speaker: Turns of each speaker; some of them together, where there are very many.
        tokens_by_speaker: Tokens of each speaker.
        supervised_by_speaker: Supervised tokens of each speaker; 0 for one who is only heard.
    """

    conversations: int = 0
    turns: int = 0
    tokens: int = 0
    turns_per_conversation: Histogram = field(default_factory=Histogram)
    tokens_per_turn: Histogram = field(default_factory=Histogram)
    turns_by_speaker: Counter[str] = field(default_factory=Counter)
    tokens_by_speaker: Counter[str] = field(default_factory=Counter)
    supervised_by_speaker: Counter[str] = field(default_factory=Counter)

    @classmethod
    def collect(
        cls, conversations: Iterable[Conversation], tokenizer: ConversationTokenizer, *, loss_on: LossOn = "all"
    ) -> "Statistics":
        """Counts conversations one by one; none is kept.

        Args:
            conversations: What to count.
            tokenizer: Makes tokens of the turns.
            loss_on: Whose turns are supervised.

        Example:
            >>> tokenizer = ConversationTokenizer.from_pretrained("gpt2")
            >>> found = Statistics.collect([Conversation(["Hello", "How are you"])], tokenizer)
            >>> found.turns, found.tokens, dict(found.tokens_by_speaker)
            (2, 4, {'user': 1, 'assistant': 3})
        """
        found = cls()
        for conversation in conversations:
            found._add(conversation, tokenizer, supervised_turns(conversation, loss_on))
        return found

    def by_speaker(self) -> list[tuple[str, int, int]]:
        """Returns name, turns and tokens of those who say most, and of all others together."""
        named = [(name, self.turns_by_speaker[name]) for name, _ in self.tokens_by_speaker.most_common() if name]
        rows = [(name, turns, self.tokens_by_speaker[name]) for name, turns in named[:TOP]]
        turns = self.turns - sum(row[1] for row in rows)
        tokens = self.tokens - sum(row[2] for row in rows)
        return [*rows, (OTHERS, turns, tokens)] if turns else rows

    def supervised(self) -> dict[str, int]:
        """Returns the supervised tokens of each speaker who is told apart, and of all others together."""
        return {name or OTHERS: tokens for name, tokens in self.supervised_by_speaker.items()}

    def to_dict(self) -> dict[str, Any]:
        """The numbers, for machines."""
        return {
            "conversations": self.conversations,
            "turns": self.turns,
            "tokens": self.tokens,
            "turns_per_conversation": self.turns_per_conversation.to_dict(),
            "tokens_per_turn": self.tokens_per_turn.to_dict(),
            "speakers": [{"name": name, "turns": turns, "tokens": tokens} for name, turns, tokens in self.by_speaker()],
        }

    def _add(self, conversation: Conversation, tokenizer: ConversationTokenizer, supervised: list[bool]) -> None:
        self.conversations += 1
        self.turns += len(conversation.turns)
        self.turns_per_conversation.counts[len(conversation.turns)] += 1
        for speaker, turn, learned in zip(conversation.turn_speakers, conversation.turns, supervised, strict=True):
            tokens = len(tokenizer.encode(turn))
            known = speaker in self.turns_by_speaker or len(self.turns_by_speaker) < _NAMES
            name = speaker if known else ""  # no speaker is called so
            self.tokens += tokens
            self.tokens_per_turn.counts[tokens] += 1
            self.turns_by_speaker[name] += 1
            self.tokens_by_speaker[name] += tokens
            self.supervised_by_speaker[name] += tokens * learned
