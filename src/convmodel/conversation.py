"""Conversations: checked turns and who speaks them.

Owns: what a conversation is, its speakers' numbers, who speaks next, its turns' weights, and the border to
role/content messages.
Does not know tokens, files or models.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import accumulate
from typing import Any, TypeAlias

from convmodel.errors import ConversationError

DEFAULT_SPEAKERS = ("user", "assistant")
"""Who speaks in a plain list of strings, in turn; the roles of exported messages."""

PINNED_ROLES = frozenset({"system", "developer", "persona"})
"""Roles whose leading messages stay in the context however long the conversation grows."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """Ordered turns, the speaker of each, and how many leading turns are pinned.

    Attributes:
        turns: What is said, in order; at least one, none of them empty.
        speakers: Who says it, one name a turn; left out, two speakers take turns.
        pinned: How many leading turns (a system message, a persona) are context that is never left out and
            never a target of training.
        id: Where the conversation comes from, for messages about it; two that say the same are equal.
        started_at: When it began, if that is known; it does not matter to equality either.
        weights: How much each turn counts in training: 1 as usual, 0 not at all, any number from 0 up. Where all are 1
            it is None, so that a conversation is equal to one without weights.

    Raises:
        ConversationError: If there is no turn, a turn is empty or not a string, or the numbers do not match.

    Example:
        >>> conversation = Conversation(["Hello", "How are you"])
        >>> conversation.speakers
        ('user', 'assistant')
        >>> conversation.next_speaker()
        'user'
    """

    turns: Sequence[str]
    speakers: Sequence[str] | None = None
    pinned: int = 0
    id: str | None = field(default=None, compare=False)
    started_at: datetime | None = field(default=None, compare=False)
    weights: Sequence[float] | None = None

    def __post_init__(self) -> None:
        turns = _checked_turns(self.turns)
        if self.speakers is None:
            speakers = tuple(DEFAULT_SPEAKERS[i % 2] for i in range(len(turns)))
        else:
            speakers = _checked_speakers(self.speakers, len(turns))
        if not isinstance(self.pinned, int) or isinstance(self.pinned, bool) or not 0 <= self.pinned <= len(turns):
            raise ConversationError(f"pinned is {self.pinned!r}, but there are {len(turns)} turns")
        weights = None if self.weights is None else _checked_weights(self.weights, len(turns))
        object.__setattr__(self, "turns", turns)
        object.__setattr__(self, "speakers", speakers)
        object.__setattr__(self, "weights", weights)

    @classmethod
    def of(cls, value: "ConversationLike") -> "Conversation":
        """Makes a conversation of a list of strings or of role/content messages; returns one as it is.

        Raises:
            ConversationError: If the value is neither, or is malformed.

        Example:
            >>> Conversation.of(["Hi", "Hello"]).turns
            ('Hi', 'Hello')
        """
        if isinstance(value, Conversation):
            return value
        if isinstance(value, str):
            raise ConversationError(
                f"a conversation is a list of turns, not one string: write [{value[:40]!r}] instead of {value[:40]!r}"
            )
        if not isinstance(value, Sequence):
            raise ConversationError(f"a conversation is a list of turns, not {type(value).__name__}")
        if value and all(isinstance(turn, Mapping) for turn in value):
            return cls.from_messages(value)  # type: ignore[arg-type]
        return cls(value)  # type: ignore[arg-type]

    @classmethod
    def from_messages(cls, messages: Sequence[Mapping[str, Any]], *, id: str | None = None) -> "Conversation":
        """Reads messages of the form `{"role": ..., "content": ...}`; leading system messages are pinned.

        A message may have a `weight`; one that has none, or null, weighs 1.

        Raises:
            ConversationError: If a message lacks its role or content, or its weight is no number from 0 up.

        Example:
            >>> Conversation.from_messages([{"role": "user", "content": "Hi"}]).speakers
            ('user',)
        """
        for number, message in enumerate(messages, 1):
            if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
                raise ConversationError(f"message {number} needs a role and a content")
        roles = [message["role"] for message in messages]
        is_pinned = (isinstance(role, str) and role in PINNED_ROLES for role in roles)
        pinned = next((i for i, found in enumerate(is_pinned) if not found), len(roles))
        given = [message.get("weight") for message in messages]
        weights = [1 if weight is None else weight for weight in given]
        return cls([message["content"] for message in messages], roles, pinned=pinned, id=id, weights=weights)

    def to_messages(self) -> list[dict[str, Any]]:
        """Writes the turns as messages of the form `{"role": ..., "content": ...}`, with a `weight` if they have any.

        Example:
            >>> Conversation(["Hi"]).to_messages()
            [{'role': 'user', 'content': 'Hi'}]
        """
        messages: list[dict[str, Any]] = [
            {"role": role, "content": turn} for role, turn in zip(self.turn_speakers, self.turns, strict=True)
        ]
        for message, weight in zip(messages, self.weights or (), strict=False):
            message["weight"] = weight
        return messages

    @property
    def turn_speakers(self) -> tuple[str, ...]:
        """The speaker of each turn."""
        return tuple(self.speakers or ())

    @property
    def speaker_names(self) -> tuple[str, ...]:
        """The speakers in order of first appearance; a speaker's index here is its token type."""
        return tuple(dict.fromkeys(self.turn_speakers))

    @property
    def turn_weights(self) -> tuple[float, ...]:
        """The weight of each turn, 1 where none are given.

        Example:
            >>> Conversation(["Hi", "Hello"]).turn_weights
            (1.0, 1.0)
        """
        return (1.0,) * len(self.turns) if self.weights is None else tuple(self.weights)

    def next_speaker(self) -> str:
        """Names who is expected to respond: of the others who spoke, the one who spoke last.

        While only one has spoken, it is the first name that is free for a counterpart: `assistant`, or `user` when the
        assistant opened. After pinned turns alone it is `user`; their speakers are not expected.

        Example:
            >>> Conversation(["Hi", "Hello", "Me too"], ["Ann", "Bob", "Cem"]).next_speaker()
            'Bob'
        """
        spoken = self.turn_speakers[self.pinned :]
        if not spoken:
            return DEFAULT_SPEAKERS[0]
        free = [name for name in reversed(DEFAULT_SPEAKERS) if name not in spoken]
        others = [name for name in reversed(spoken) if name != spoken[-1]]
        return (others or free)[0]

    def with_turn(self, turn: str, speaker: str | None = None) -> "Conversation":
        """Returns the conversation with one more turn, spoken by the expected speaker unless one is named.

        The turn weighs 1.

        Example:
            >>> Conversation(["Hi"]).with_turn("Hello").speakers
            ('user', 'assistant')
        """
        return replace(
            self,
            turns=(*self.turns, turn),
            speakers=(*self.turn_speakers, speaker or self.next_speaker()),
            weights=(*self.turn_weights, 1),
        )

    def run_lengths(self) -> list[int]:
        """Returns how many turns each speaker says in a row; pinned turns are a row of their own.

        Example:
            >>> Conversation(["Hi", "Anyone?", "Yes"], ["Ann", "Ann", "Bob"]).run_lengths()
            [2, 1]
        """
        lengths: list[int] = []
        for index, speaker in enumerate(self.turn_speakers):
            if index not in (0, self.pinned) and speaker == self.turn_speakers[index - 1]:
                lengths[-1] += 1
            else:
                lengths.append(1)
        return lengths

    def joined(self) -> "Conversation":
        r"""Returns the conversation with consecutive turns of one speaker made one, joined by a newline.

        Pinned turns are joined only with pinned turns. Others must have one weight to become one turn: a mean would
        train what is to be left out, and leave out half of what is to be trained.

        Raises:
            ConversationError: If the weights of turns that become one differ.

        Example:
            >>> Conversation(["Hi", "Anyone?", "Yes"], ["Ann", "Ann", "Bob"]).joined().turns
            ('Hi\nAnyone?', 'Yes')
        """
        ends = list(accumulate(self.run_lengths()))
        starts = [0, *ends[:-1]]
        weights = self.turn_weights
        for start, end in zip(starts, ends, strict=True):
            if start >= self.pinned and len(set(weights[start:end])) > 1:
                listed = ", ".join(f"{weight:g}" for weight in weights[start:end])
                raise ConversationError(
                    f"turns {start + 1} to {end} are by {self.turn_speakers[start]!r} in a row and become one, "
                    f"but they weigh {listed}: give them one weight"
                )
        return replace(
            self,
            turns=["\n".join(self.turns[start:end]) for start, end in zip(starts, ends, strict=True)],
            speakers=[self.turn_speakers[start] for start in starts],
            pinned=sum(start < self.pinned for start in starts),
            weights=[weights[start] for start in starts],
        )


ConversationLike: TypeAlias = Conversation | Sequence[str] | Sequence[Mapping[str, Any]]
"""What callers may pass for a conversation: one, a list of turns, or a list of role/content messages."""


def _checked_turns(turns: Sequence[str]) -> tuple[str, ...]:
    if isinstance(turns, str) or not isinstance(turns, Sequence):
        raise ConversationError(f"turns are a list of strings, not {type(turns).__name__}")
    if not turns:
        raise ConversationError("the conversation is empty: it needs at least one turn")
    for number, turn in enumerate(turns, 1):
        if not isinstance(turn, str):
            raise ConversationError(f"turn {number} is {type(turn).__name__}, not a string")
        if not turn.strip():
            raise ConversationError(f"turn {number} is empty: leave it out, or say something")
        if not _is_unicode(turn):
            raise ConversationError(f"turn {number} holds half a surrogate pair, which no encoding of text can hold")
    return tuple(turns)


def _checked_speakers(speakers: Sequence[str], turns: int) -> tuple[str, ...]:
    if isinstance(speakers, str) or not isinstance(speakers, Sequence) or len(speakers) != turns:
        raise ConversationError(f"speakers must name one speaker a turn: {turns} turns, speakers {speakers!r}")
    for number, speaker in enumerate(speakers, 1):
        if not isinstance(speaker, str) or not speaker.strip():
            raise ConversationError(f"the speaker of turn {number} is {speaker!r}, not a name")
    return tuple(speakers)


def _checked_weights(weights: Sequence[float], turns: int) -> tuple[float, ...] | None:
    if not isinstance(weights, Sequence) or len(weights) != turns:
        raise ConversationError(f"weights must give one number a turn: {turns} turns, weights {weights!r}")
    for number, weight in enumerate(weights, 1):
        is_number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not is_number or not 0 <= weight <= sys.float_info.max:  # neither infinite nor no number
            raise ConversationError(f"the weight of turn {number} is {weight!r}: write a number from 0 up")
    return None if all(weight == 1 for weight in weights) else tuple(map(float, weights))


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
