"""A conversation between models, or of one model with itself.

Owns: whose turn it is, when such a conversation ends, and what a loop is.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Unpack

from convmodel.conversation import DEFAULT_SPEAKERS, Conversation
from convmodel.errors import ConfigError
from convmodel.generation.option_types import GenerateOptions
from convmodel.generation.output import ConversationModelOutput

LONGEST_LOOP = 6
"""The longest loop that is detected, in turns."""


class Responder(Protocol):
    """The model interface that a self-chat needs; `ConversationModel` has it."""

    def generate(self, context: Conversation, **options: Unpack[GenerateOptions]) -> ConversationModelOutput:
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


class SelfChat:
    """A conversation between models: an iterator of turns, and what it has come to so far.

    Attributes:
        conversation: All turns, the opening ones included.
        opening: How many turns were given.
        ended_by: `turns` (the requested number), `loop`, or `empty` (a response of blanks).
        loop: The loop that it ends in, if any.
        cut_off: How many responses ended at the token limit.
        repeated: How many responses repeat an earlier turn of the same speaker word for word.

    Example:
        >>> from convmodel import ConversationModel
        >>> model = ConversationModel.from_pretrained("model")
        >>> chat = SelfChat({"user": model, "assistant": model}, Conversation(["Hello", "How are you"]), turns=2)
        >>> list(chat)
        [('user', 'Good thank you'), ('assistant', 'Glad to hear it')]
        >>> chat.ended_by
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
            speakers: The speakers, in their order, and the model that responds as each; models may repeat.
            opening: The first turns, by these speakers.
            turns: The largest number of turns to add.
            stop_at_loop: Whether it ends when it repeats itself.
            seed: Makes sampling repeatable; each turn uses the next integer.
            **options: Options of `generate` for all turns.

        Raises:
            ConfigError: If there are fewer than two speakers, or the opening has another one.
        """
        from convmodel.generation.options import given_options  # imports torch, which commands load later

        strangers = set(opening.turn_speakers[opening.pinned :]) - set(speakers)
        if len(speakers) < 2 or strangers:
            raise ConfigError(
                f"a conversation of {', '.join(speakers) or 'nobody'} cannot continue"
                + (f" after {', '.join(sorted(strangers))} spoke" if strangers else "")
                + ": name at least two speakers, those of the opening among them"
            )
        self._speakers = dict(speakers)
        self.conversation, self.opening = opening, len(opening.turns)
        self._turns, self._stop_at_loop, self._seed = turns, stop_at_loop, seed
        self._options = {"min_new_tokens": 1, "cut_long_turn": True} | given_options(options)
        self.ended_by, self.loop = "turns", find_loop(opening.turns)
        self.cut_off = self.repeated = 0

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Generates turn after turn and yields each with its speaker.

        Raises:
            ConfigError: If an option does not exist or makes no sense.
        """
        names = [*self._speakers]
        for number in range(self._turns):
            last = self.conversation.turn_speakers[-1]
            name = names[(names.index(last) + 1) % len(names)] if last in names else names[0]
            seeded: dict[str, Any] = {} if self._seed is None else {"seed": self._seed + number}
            output = self._speakers[name].generate(self.conversation, reply_as=name, **self._options, **seeded)
            [text], [reason] = output.responses, output.finish_reasons
            if not text.strip():
                self.ended_by = "empty"
                return
            self.cut_off += reason == "length"
            self.repeated += (name, text) in zip(self.conversation.turn_speakers, self.conversation.turns, strict=True)
            self.conversation = self.conversation.with_turn(text, name)
            yield name, text
            self.loop = self.loop or find_loop(self.conversation.turns)
            if self.loop and self._stop_at_loop:
                self.ended_by = "loop"
                return


def opening_of(text: str, names: Sequence[str] = DEFAULT_SPEAKERS) -> Conversation:
    """Creates a conversation that the first of some speakers opens."""
    return Conversation([text], [names[0]])


def find_loop(turns: Sequence[str]) -> Loop | None:
    """Returns the loop that a conversation ends in: its newest turns repeat the turns before them.

    A loop is one to six turns long; a single turn must occur three times in a row, since "Bye", "Bye" is not a loop.
    Case and blanks are ignored.

    Example:
        >>> find_loop(["Hi", "You?", "Fine. You?", "Fine. You?", "fine. you?"])
        Loop(first=3, period=1)
        >>> find_loop(["Hi", "Bye", "Bye"])
    """
    normalized = [" ".join(turn.lower().split()) for turn in turns]
    for period in range(1, LONGEST_LOOP + 1):
        again = 0
        while again + period < len(normalized) and normalized[-1 - again] == normalized[-1 - again - period]:
            again += 1
        if again >= max(2, period):
            return Loop(len(normalized) - again - period + 1, period)
    return None
