"""Models that talk to each other, or one model that takes all parts.

Owns: whose turn it is, when such a conversation ends, and what a loop is.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from convmodel.conversation import DEFAULT_SPEAKERS, Conversation
from convmodel.errors import ConfigError
from convmodel.generation.output import ConversationModelOutput

LONGEST_LOOP = 6
"""The most turns that are looked at as one round of a loop."""


class Responder(Protocol):
    """What takes part in a self-chat; `ConversationModel` does."""

    def generate(self, context: Conversation, **options: Any) -> ConversationModelOutput:
        """Generates a response to a context."""


@dataclass(frozen=True, slots=True)
class Loop:
    """A conversation that repeats itself.

    Attributes:
        first: The number of the first turn of the loop, from 1.
        period: How many turns are repeated.
    """

    first: int
    period: int


@dataclass(frozen=True, slots=True)
class SelfChat:
    """What was said, and why it ended.

    Attributes:
        conversation: All turns, the opening ones included.
        opening: How many turns were given.
        ended_by: `turns` (as many as were asked for), `loop`, or `empty` (a response of blanks).
        loop: The loop, if there is one.
        cut_off: How many responses ended at the longest length.
        said_before: How many responses the same speaker had said before, word for word.
    """

    conversation: Conversation
    opening: int
    ended_by: str
    loop: Loop | None
    cut_off: int
    said_before: int


class SelfTalk:
    """A conversation that models have among themselves: an iterator of turns, and then its account.

    Example:
        >>> from convmodel import ConversationModel
        >>> model = ConversationModel.from_pretrained("model")
        >>> talk = SelfTalk({"user": model, "assistant": model}, Conversation(["Hello", "How are you"]), turns=2)
        >>> list(talk)
        [('user', 'Good thank you'), ('assistant', 'Glad to hear it')]
        >>> talk.result().ended_by
        'turns'
    """

    def __init__(
        self,
        speakers: Mapping[str, Responder],
        opening: Conversation,
        *,
        turns: int = 20,
        stop_at_loop: bool = True,
        seed: int | None = None,
        **options: Any,
    ) -> None:
        """Prepares the conversation; iterating over it makes the turns.

        Args:
            speakers: Who takes part, in their order, and the model that speaks for each; it may be the same.
            opening: The first turns, by these speakers.
            turns: How many turns are added at most.
            stop_at_loop: Whether it ends where it goes round in a circle.
            seed: Makes sampling repeatable; each turn has the next one.
            **options: Options of `generate` for all turns.

        Raises:
            ConfigError: If fewer than two speakers take part, or another one opens.
        """
        strangers = set(opening.turn_speakers[opening.pinned :]) - set(speakers)
        if len(speakers) < 2 or strangers:
            raise ConfigError(
                f"a conversation of {', '.join(speakers) or 'nobody'} cannot go on"
                + (f" after {', '.join(sorted(strangers))} spoke" if strangers else "")
                + ": name at least two speakers, those of the opening among them"
            )
        self._speakers = dict(speakers)
        self._opening, self._now = opening, opening
        self._turns, self._stop_at_loop, self._seed = turns, stop_at_loop, seed
        self._options = {"min_new_tokens": 1, "cut_long_turn": True} | options
        self._ended_by, self._loop = "turns", find_loop(opening.turns)
        self._cut_off = self._said_before = 0

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Makes turn after turn and yields who says what.

        Raises:
            ConfigError: If an option does not exist or makes no sense.
        """
        names = [*self._speakers]
        for number in range(self._turns):
            last = self._now.turn_speakers[-1]
            name = names[(names.index(last) + 1) % len(names)] if last in names else names[0]
            seeded = {} if self._seed is None else {"seed": self._seed + number}
            output = self._speakers[name].generate(self._now, reply_as=name, **self._options, **seeded)
            [text], [reason] = output.responses, output.finish_reasons
            if not text.strip():
                self._ended_by = "empty"
                return
            self._cut_off += reason == "length"
            self._said_before += (name, text) in zip(self._now.turn_speakers, self._now.turns, strict=True)
            self._now = self._now.with_turn(text, name)
            yield name, text
            self._loop = self._loop or find_loop(self._now.turns)
            if self._loop and self._stop_at_loop:
                self._ended_by = "loop"
                return

    def result(self) -> SelfChat:
        """Says what has become of it so far."""
        opening = len(self._opening.turns)
        return SelfChat(self._now, opening, self._ended_by, self._loop, self._cut_off, self._said_before)


def opening_of(text: str, names: Sequence[str] = DEFAULT_SPEAKERS) -> Conversation:
    """Makes a conversation that the first of some speakers opens."""
    return Conversation([text], [names[0]])


def find_loop(turns: Sequence[str]) -> Loop | None:
    """Tells whether a conversation ends in a loop: its newest turns were said just so in the round before.

    A round is one to six turns; a single turn must be said three times in a row, since twice is "Bye" and "Bye".
    Upper and lower case and blanks do not matter.

    Example:
        >>> find_loop(["Hi", "You?", "Fine. You?", "Fine. You?", "fine. you?"])
        Loop(first=3, period=1)
        >>> find_loop(["Hi", "Bye", "Bye"])
    """
    said = [" ".join(turn.lower().split()) for turn in turns]
    for period in range(1, LONGEST_LOOP + 1):
        again = 0
        while again + period < len(said) and said[-1 - again] == said[-1 - again - period]:
            again += 1
        if again >= max(2, period):
            return Loop(len(said) - again - period + 1, period)
    return None
