"""Statistics of conversations: turns and tokens, by speaker.

Owns: counting in one pass, in memory that does not grow with the data. Does not know how they are shown.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from convmodel.conversation import Conversation
from convmodel.errors import ConversationError
from convmodel.layout.sequence import LossOn, supervised_turns
from convmodel.layout.tokenizer import ConversationTokenizer

TOP = 20
"""Number of speakers that are listed; the others are counted together."""

OTHERS = "others"
"""Name of the others."""

_NAMES = 10_000  # speakers that are counted separately: group chats have hundreds, forums millions


@dataclass(slots=True)
class Histogram:
    """How often each integer occurred; exact, with one entry per distinct value."""

    counts: Counter[int] = field(default_factory=Counter)

    @property
    def mean(self) -> float:
        """The mean; 0 without values."""
        return sum(value * count for value, count in self.counts.items()) / max(1, self.counts.total())

    def percentile(self, percent: float) -> int:
        """Returns the percentile by the nearest-rank method; 0 without values."""
        rank, seen = self.counts.total() * percent / 100, 0
        for value, count in sorted(self.counts.items()):
            seen += count
            if seen >= rank:
                return value
        return 0

    def to_dict(self) -> dict[str, float]:
        """The mean and some percentiles, by name."""
        ranks = {"min": 0, "median": 50, "p90": 90, "p99": 99, "max": 100}
        return {"mean": self.mean} | {name: self.percentile(percent) for name, percent in ranks.items()}


@dataclass(slots=True)
class Statistics:
    """Counts of conversations, turns and tokens of text, without separators.

    Beyond 10,000 speakers the others are counted together, with an empty name. A speaker who is never supervised has 0.
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
        """Counts conversations one by one, without keeping them."""
        statistics = cls()
        for conversation in conversations:
            try:
                arranged = tokenizer.arrange(conversation, loss_on)
            except ConversationError:
                continue  # it has no windows, and is counted among those that are left out
            supervised = supervised_turns(arranged.conversation, loss_on, arranged.roles)
            statistics._add(arranged.conversation, tokenizer, supervised)
        return statistics

    def by_speaker(self) -> list[tuple[str, int, int]]:
        """Returns name, turns and tokens of the speakers with most tokens, and of all others together."""
        named = [(name, self.turns_by_speaker[name]) for name, _ in self.tokens_by_speaker.most_common() if name]
        rows = [(name, turns, self.tokens_by_speaker[name]) for name, turns in named[:TOP]]
        turns = self.turns - sum(row[1] for row in rows)
        tokens = self.tokens - sum(row[2] for row in rows)
        return [*rows, (OTHERS, turns, tokens)] if turns else rows

    def supervised(self) -> dict[str, int]:
        """Returns the supervised tokens of each speaker, and of those counted together as others."""
        return {name or OTHERS: tokens for name, tokens in self.supervised_by_speaker.items()}

    def to_dict(self) -> dict[str, Any]:
        """The statistics as JSON values."""
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
            is_counted = speaker in self.turns_by_speaker or len(self.turns_by_speaker) < _NAMES
            name = speaker if is_counted else ""  # no speaker has an empty name
            self.tokens += tokens
            self.tokens_per_turn.counts[tokens] += 1
            self.turns_by_speaker[name] += 1
            self.tokens_by_speaker[name] += tokens
            self.supervised_by_speaker[name] += tokens * learned
