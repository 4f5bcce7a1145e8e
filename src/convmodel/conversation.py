"""Conversations: checked turns and who speaks them.

Owns: what a conversation is, its speakers' numbers, who speaks next, and the border to role/content messages.
Does not know tokens, files or models.
"""

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

    def __post_init__(self) -> None:
        turns = _checked_turns(self.turns)
        if self.speakers is None:
            speakers = tuple(DEFAULT_SPEAKERS[i % 2] for i in range(len(turns)))
        else:
            speakers = _checked_speakers(self.speakers, len(turns))
        if not isinstance(self.pinned, int) or isinstance(self.pinned, bool) or not 0 <= self.pinned <= len(turns):
            raise ConversationError(f"pinned is {self.pinned!r}, but there are {len(turns)} turns")
        object.__setattr__(self, "turns", turns)
        object.__setattr__(self, "speakers", speakers)

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

        Raises:
            ConversationError: If a message lacks its role or content.

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
        return cls([message["content"] for message in messages], roles, pinned=pinned, id=id)

    def to_messages(self) -> list[dict[str, str]]:
        """Writes the turns as messages of the form `{"role": ..., "content": ...}`.

        Example:
            >>> Conversation(["Hi"]).to_messages()
            [{'role': 'user', 'content': 'Hi'}]
        """
        return [{"role": role, "content": turn} for role, turn in zip(self.who, self.turns, strict=True)]

    @property
    def who(self) -> tuple[str, ...]:
        """The speaker of each turn."""
        return tuple(self.speakers or ())

    @property
    def names(self) -> tuple[str, ...]:
        """The speakers in order of first appearance; a speaker's index here is its token type."""
        return tuple(dict.fromkeys(self.who))

    def next_speaker(self) -> str:
        """Names who is expected to respond: of the others who spoke, the one who spoke last.

        While only one has spoken, it is the first name that is free for a counterpart: `assistant`, or `user` when the
        assistant opened. After pinned turns alone it is `user`; their speakers are not expected.

        Example:
            >>> Conversation(["Hi", "Hello", "Me too"], ["Ann", "Bob", "Cem"]).next_speaker()
            'Bob'
        """
        spoken = self.who[self.pinned :]
        if not spoken:
            return DEFAULT_SPEAKERS[0]
        free = [name for name in reversed(DEFAULT_SPEAKERS) if name not in spoken]
        others = [name for name in reversed(spoken) if name != spoken[-1]]
        return (others or free)[0]

    def with_turn(self, turn: str, speaker: str | None = None) -> "Conversation":
        """Returns the conversation with one more turn, spoken by the expected speaker unless one is named.

        Example:
            >>> Conversation(["Hi"]).with_turn("Hello").speakers
            ('user', 'assistant')
        """
        return replace(self, turns=(*self.turns, turn), speakers=(*self.who, speaker or self.next_speaker()))

    def runs(self) -> list[int]:
        """Returns how many turns each speaker says in a row; pinned turns are a row of their own.

        Example:
            >>> Conversation(["Hi", "Anyone?", "Yes"], ["Ann", "Ann", "Bob"]).runs()
            [2, 1]
        """
        lengths: list[int] = []
        for index, speaker in enumerate(self.who):
            if index not in (0, self.pinned) and speaker == self.who[index - 1]:
                lengths[-1] += 1
            else:
                lengths.append(1)
        return lengths

    def joined(self) -> "Conversation":
        r"""Returns the conversation with consecutive turns of one speaker made one, joined by a newline.

        Pinned turns are joined only with pinned turns.

        Example:
            >>> Conversation(["Hi", "Anyone?", "Yes"], ["Ann", "Ann", "Bob"]).joined().turns
            ('Hi\nAnyone?', 'Yes')
        """
        ends = list(accumulate(self.runs()))
        starts = [0, *ends[:-1]]
        return replace(
            self,
            turns=["\n".join(self.turns[start:end]) for start, end in zip(starts, ends, strict=True)],
            speakers=[self.who[start] for start in starts],
            pinned=sum(start < self.pinned for start in starts),
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


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
