"""Contexts to have answered by another model, and its answers as training data.

Owns: which turns are requested, their roles in OpenAI's API, and which turn of the result is trained on. Does not know
servers or files.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any

from convmodel.conversation import DEFAULT_SPEAKERS, PINNED_ROLES, Conversation
from convmodel.data.reading.reader import ConversationReader
from convmodel.errors import ConversationError


@dataclass(frozen=True, slots=True)
class ContextToAnswer:
    """The turns before an answer, and who gives it.

    Example:
        >>> context = ContextToAnswer(Conversation(["Hello", "Hi", "Well?"], ["Ann", "Bob", "Ann"]), "Bob")
        >>> [message["role"] for message in context.messages()]
        ['user', 'assistant', 'user']
        >>> context.answered("Fine").weights
        (0.0, 0.0, 0.0, 1.0)
    """

    turns: Conversation
    responder: str

    def messages(self) -> list[dict[str, str]]:
        """Returns the turns as messages of a request: the responder is the assistant, everybody else the user."""
        user, assistant = DEFAULT_SPEAKERS
        roles = dict.fromkeys(self.turns.turn_speakers, user) | {self.responder: assistant}
        pinned = [name if name in PINNED_ROLES - {"persona"} else "system" for name in self._pinned]
        names = [*pinned, *(roles[name] for name in self.turns.turn_speakers[self.turns.pinned :])]
        return [{"role": role, "content": turn} for role, turn in zip(names, self.turns.turns, strict=True)]

    def answered(self, text: str) -> Conversation:
        """Returns the conversation with the answer, the only turn with a weight in the loss."""
        return replace(
            self.turns,
            turns=(*self.turns.turns, text),
            speakers=(*self.turns.turn_speakers, self.responder),
            weights=(*(0 for _ in self.turns.turns), 1),
        )

    @property
    def _pinned(self) -> tuple[str, ...]:
        return self.turns.turn_speakers[: self.turns.pinned]


@dataclass(slots=True)
class Contexts:
    """All contexts of a source, each made when it is needed.

    Attributes:
        conversations: What they are made from.
        how: The options of `contexts_of`.
        count: How many contexts there are.
        left_out: How many rows were left out.
        problems: Why the first of these were.
    """

    conversations: list[Conversation]
    how: dict[str, Any]
    count: int = 0
    left_out: int = 0
    problems: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, reader: ConversationReader, how: dict[str, Any]) -> "Contexts":
        """Reads and checks all, before the first request; raises a `ConversationError` if there is none."""
        contexts = cls([], how)
        for conversation in reader:
            try:
                contexts.count += sum(1 for _ in contexts_of(conversation, **how))
                contexts.conversations.append(conversation)
            except ConversationError as error:
                reader.problems.add(str(error))
        contexts.left_out, contexts.problems = reader.problems.count, reader.problems.messages
        if not contexts.count:
            raise ConversationError(f"{reader.source} has no context to answer: {contexts.problems[0]}")
        return contexts

    def __iter__(self) -> Iterator[ContextToAnswer]:
        for conversation in self.conversations:
            yield from contexts_of(conversation, **self.how)


def contexts_of(
    conversation: Conversation, *, each_turn: bool = False, reply_as: str | None = None, system: str | None = None
) -> Iterator[ContextToAnswer]:
    """Yields the context that a conversation is or, with `each_turn`, the turns before each turn of the responder.

    Args:
        conversation: A context, or with `each_turn` a whole conversation, whose own responses are requested again.
        each_turn: Whether each turn of the responder is requested.
        reply_as: The responder: by default the speaker whose turn it is, with `each_turn` the assistant.
        system: A system message for conversations that begin with none.

    Raises:
        ConversationError: If there is nothing to answer, or there are more than two speakers.
    """
    place = f"{conversation.id}: " if conversation.id else ""
    if system and not conversation.pinned:
        conversation = replace(
            conversation,
            turns=(system, *conversation.turns),
            speakers=("system", *conversation.turn_speakers),
            weights=None,
            pinned=1,
        )
    speakers = conversation.turn_speakers
    spoken = speakers[conversation.pinned :]
    responder = reply_as or (DEFAULT_SPEAKERS[1] if each_turn else _next_speaker(conversation))
    pairs = enumerate(pairwise(spoken), conversation.pinned + 1)
    numbers = [number for number, (before, speaker) in pairs if before != responder == speaker]
    if each_turn and not numbers:
        raise ConversationError(
            f"{place}no turn of {responder} after another turn: --reply-as names the speaker whose turns are requested"
        )
    others = sorted({*spoken} - {responder})
    if len(others) > 1:
        raise ConversationError(
            f"{place}{len(others) + 1} speakers ({', '.join([*others, responder])}), but a server knows a user and an "
            "assistant: merge the others first (`convmodel import --me NAME --merge-others`)"
        )
    if not each_turn:
        if not spoken or spoken[-1] == responder:
            raise ConversationError(
                f"{place}the conversation does not end with a turn to answer: --each-turn asks for the turns of "
                "the assistant that it has, or remove its last turn"
            )
        yield ContextToAnswer(conversation, responder)
        return
    for number in numbers:
        yield ContextToAnswer(_until(conversation, number), responder)


def _next_speaker(conversation: Conversation) -> str:
    """Returns who answers a context; a last turn of the assistant is never answered by the user."""
    assistant = DEFAULT_SPEAKERS[1]
    return assistant if conversation.turn_speakers[-1] == assistant else conversation.next_speaker()


def _until(conversation: Conversation, number: int) -> Conversation:
    """Returns the turns before one, under an id with that turn's number."""
    return replace(
        conversation,
        turns=conversation.turns[:number],
        speakers=conversation.turn_speakers[:number],
        weights=None,
        id=f"{conversation.id}#{number + 1}" if conversation.id else None,
    )
