"""Conversations: validated turns and their speakers.

Owns: what a conversation is, the order of its speakers, who speaks next, the weights of its turns, and conversion from
and to role/content messages. Does not know tokens, files or models.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from itertools import accumulate, takewhile
from typing import Any, TypeAlias

from convmodel.arguments.values import plain
from convmodel.errors import ConversationError

LONGEST_TURN = 1 << 22
"""The limit of a turn in characters, far beyond any model's positions; tokenizers abort without enough memory."""

DEFAULT_SPEAKERS = ("user", "assistant")
"""The alternating speakers of a plain list of strings."""

PINNED_ROLES = frozenset({"system", "developer", "persona"})
"""Roles whose leading messages always stay in the context."""


@dataclass(frozen=True, slots=True)
class Conversation:
    """An ordered list of turns, with the speaker of each.

    Attributes:
        turns: The texts of the turns, in order; at least one, none empty.
        speakers: The speaker's name for each turn; by default `user` and `assistant` alternate.
        pinned: How many leading turns (a system message, a persona) always stay in the context and are never training
            targets.
        id: Where the conversation comes from, for error messages; ignored by comparisons.
        started_at: When the conversation began, if known; ignored by comparisons.
        weights: The weight of each turn in the loss: 1 by default, 0 to exclude it. None if all are 1, so that the
            conversation equals one without weights.
        omitted: What its messages had beside their text, such as `reasoning_content`, once for each message; for
            counts, ignored by comparisons.

    Raises:
        ConversationError: If there is no turn, a turn is empty or not a string, or the lengths do not match.

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
    omitted: Sequence[str] = field(default=(), compare=False)

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
        """Converts a list of strings or of role/content messages; returns a `Conversation` unchanged.

        Raises:
            ConversationError: If the value is neither, or is malformed.

        Example:
            >>> Conversation.of(["Hi", "Hello"]).turns
            ('Hi', 'Hello')
        """
        if isinstance(value, Conversation):
            return value
        given: Any = plain(value)
        if isinstance(given, str):
            raise ConversationError(
                f"a conversation is a list of turns, not one string: write [{given[:40]!r}] instead of {given[:40]!r}"
            )
        if not isinstance(given, Sequence):
            raise ConversationError(f"a conversation must be a list of turns, not {type(given).__name__}{_part(given)}")
        if given and all(isinstance(turn, Mapping) for turn in given):
            return cls.from_messages(given)
        return cls(given)

    @classmethod
    def from_messages(cls, messages: Sequence[Mapping[str, Any]], *, id: str | None = None) -> "Conversation":
        """Converts messages of the form `{"role": ..., "content": ...}`; leading system messages are pinned.

        A message may have a `weight`; the default, also for null, is 1.

        Raises:
            ConversationError: If a message has no role or content, or its weight is not a number of at least 0.

        Example:
            >>> Conversation.from_messages([{"role": "user", "content": "Hi"}]).speakers
            ('user',)
        """
        for number, message in enumerate(messages, 1):
            if not isinstance(message, Mapping) or not {"role", "content"} <= message.keys():
                keys = f", not {', '.join(map(str, message))}" if isinstance(message, Mapping) else ""
                raise ConversationError(f"message {number} needs a role and a content{keys}")
        roles = [message["role"] for message in messages]
        pinned = sum(1 for _ in takewhile(lambda role: isinstance(role, str) and role in PINNED_ROLES, roles))
        weights = [1 if message.get("weight") is None else message["weight"] for message in messages]
        return cls([message["content"] for message in messages], roles, pinned=pinned, id=id, weights=weights)

    def to_messages(self) -> list[dict[str, Any]]:
        """Returns the turns as messages of the form `{"role": ..., "content": ...}`, with `weight` if any.

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
        """The speaker of each turn, as a tuple."""
        return tuple(self.speakers or ())

    @property
    def speaker_names(self) -> tuple[str, ...]:
        """The speakers in order of first appearance; a speaker's index here is its token type."""
        return tuple(dict.fromkeys(self.turn_speakers))

    @property
    def turn_weights(self) -> tuple[float, ...]:
        """The weight of each turn; 1 by default."""
        return (1.0,) * len(self.turns) if self.weights is None else tuple(self.weights)

    def next_speaker(self) -> str:
        """Returns the expected next speaker: the latest speaker other than that of the last turn.

        If there is only one speaker so far, it is `assistant`, or `user` if that speaker is the assistant. If all turns
        are pinned, it is `user`.

        Example:
            >>> Conversation(["Hi", "Hello", "Me too"], ["Ann", "Bob", "Cem"]).next_speaker()
            'Bob'
        """
        spoken = self.turn_speakers[self.pinned :]
        if not spoken:
            return DEFAULT_SPEAKERS[0]
        unused = [name for name in reversed(DEFAULT_SPEAKERS) if name not in spoken]
        others = [name for name in reversed(spoken) if name != spoken[-1]]
        return (others or unused)[0]

    def with_turn(self, turn: str, speaker: str | None = None) -> "Conversation":
        """Returns the conversation with one more turn, of weight 1; by default its speaker is `next_speaker()`.

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
        """Returns the lengths of runs of consecutive turns by one speaker; pinned and other turns form separate runs.

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
        r"""Returns the conversation with consecutive turns of one speaker joined by a newline.

        Pinned turns are joined only with pinned turns. Other turns must have equal weights to be joined.

        Raises:
            ConversationError: If the weights of turns to be joined differ.

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
                    f"turns {start + 1} to {end}, all by {self.turn_speakers[start]!r}, are joined, "
                    f"but their weights differ ({listed}): give them the same weight"
                )
        return replace(
            self,
            turns=["\n".join(self.turns[start:end]) for start, end in zip(starts, ends, strict=True)],
            speakers=[self.turn_speakers[start] for start in starts],
            pinned=sum(start < self.pinned for start in starts),
            weights=[weights[start] for start in starts],
        )


def _part(value: object) -> str:
    """Returns advice for an object that has a conversation in it."""
    keys = [key for key in ("turns", "messages") if isinstance(value, Mapping) and key in value]
    return f": give its {keys[0]}" if keys else ""


ConversationLike: TypeAlias = Conversation | Sequence[str] | Sequence[Mapping[str, Any]]
"""Accepted wherever a conversation is expected: a `Conversation`, a list of turns, or role/content messages."""


def _checked_turns(turns: Any) -> tuple[str, ...]:
    turns = plain(turns)
    if isinstance(turns, str) or not isinstance(turns, Sequence):
        raise ConversationError(f"turns must be a list of strings, not {type(turns).__name__}")
    if not turns:
        raise ConversationError("the conversation is empty: it needs at least one turn")
    for number, turn in enumerate(turns, 1):
        if not isinstance(turn, str):
            several = ": it may be one of several conversations" if isinstance(turn, list | tuple) else ""
            raise ConversationError(f"turn {number} is {type(turn).__name__}, not a string{several}")
        if not turn.strip():
            raise ConversationError(f"turn {number} is empty: remove it, or give it a text")
        if len(turn) > LONGEST_TURN:
            raise ConversationError(
                f"turn {number} has {len(turn):,} characters, more than {LONGEST_TURN:,}: split it, or remove it"
            )
        try:
            turn.encode()
        except UnicodeEncodeError as error:
            problem = f"turn {number} contains half a surrogate pair, which cannot be encoded"
            raise ConversationError(problem) from error
    return tuple(turns)


def _checked_speakers(speakers: Sequence[str], turns: int) -> tuple[str, ...]:
    speakers = plain(speakers)
    if isinstance(speakers, str) or not isinstance(speakers, Sequence) or len(speakers) != turns:
        raise ConversationError(f"speakers must have one name per turn: {turns} turns, speakers {speakers!r}")
    for number, speaker in enumerate(speakers, 1):
        if not isinstance(speaker, str) or not speaker.strip():
            raise ConversationError(f"the speaker of turn {number} is {speaker!r}, not a name")
    return tuple(speakers)


def _checked_weights(weights: Sequence[float], turns: int) -> tuple[float, ...] | None:
    weights = plain(weights)
    if not isinstance(weights, Sequence) or len(weights) != turns:
        raise ConversationError(f"weights must have one number per turn: {turns} turns, weights {weights!r}")
    weights = [plain(weight) for weight in weights]
    for number, weight in enumerate(weights, 1):
        is_number = isinstance(weight, int | float) and not isinstance(weight, bool)
        if not is_number or not 0 <= weight <= sys.float_info.max:  # neither infinite nor NaN
            raise ConversationError(f"the weight of turn {number} is {weight!r}: it must be a number of at least 0")
    return None if all(weight == 1 for weight in weights) else tuple(map(float, weights))
