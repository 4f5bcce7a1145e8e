"""What a row with judged responses holds: a context, and what was liked, disliked or compared.

Owns: these parts, and which of them counts as a good response in training. Does not know in which forms rows keep them
(`judged_forms.py`, `preference_forms.py`), nor what a judgement is (`data.judgements`).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from convmodel.conversation import Conversation
from convmodel.errors import ConversationError

REGENERATION = "regeneration"
"""The kind of judgement that counts nothing unless it is given a weight: people regenerate out of curiosity too."""


@dataclass(frozen=True, slots=True)
class JudgedRow:
    """A context and the responses to it that a row judges.

    Attributes:
        context: The turns before the response.
        responder: The speaker of the response.
        chosen: The liked or better response, if any.
        rejected: The disliked or worse response, if any.
        undecided: Whether neither of the two is better.
        facts: Its kind, model, fingerprint, time and weight, as far as the row has them.
    """

    context: Conversation
    responder: str
    chosen: str | None = None
    rejected: str | None = None
    undecided: bool = False
    facts: Mapping[str, Any] = field(default_factory=dict)

    def conversation(self) -> Conversation:
        """Returns the context with its good response, the only turn that counts in training; a bad one has weight 0."""
        is_good = self.chosen is not None and not self.undecided
        weight = self.facts.get("weight", int(self.facts.get("kind") != REGENERATION)) if is_good else 0
        text = self.rejected if self.chosen is None else self.chosen
        whole = self.context.with_turn(text or "", self.responder)
        return replace(whole, weights=[*[0] * len(self.context.turns), weight])


def require_other_speaker(context: Conversation, responder: str) -> None:
    """Raises a `ConversationError` if the responder has the last word of a context already.

    Models see consecutive turns of one speaker as one turn, so that the response would continue that turn.
    """
    if context.turn_speakers[-1] == responder and len(context.turns) > context.pinned:
        raise ConversationError(
            f"the context ends with a turn of {responder}, who responds: remove that turn, or name another responder"
        )


def split_last(conversation: Conversation) -> tuple[Conversation, str]:
    """Returns the context of a conversation's last turn, without weights, and the text of that turn.

    Raises:
        ConversationError: If it has only one turn.

    Example:
        >>> context, response = split_last(Conversation(["Hi", "Hello"]))
        >>> context.turns, response
        (('Hi',), 'Hello')
    """
    if len(conversation.turns) < 2:
        raise ConversationError("there is no context before the response: it needs at least one turn")
    turns, speakers = conversation.turns[:-1], conversation.turn_speakers[:-1]
    pinned = min(conversation.pinned, len(turns))
    return Conversation(turns, speakers, pinned=pinned, omitted=conversation.omitted), conversation.turns[-1]


def message_list(value: Any, name: str) -> list[Any]:
    """Returns a list of messages, also of one that is not in a list."""
    if isinstance(value, Mapping):
        return [value]
    if not isinstance(value, list | tuple) or not value:
        raise ConversationError(f"{name} is {str(value)[:40]!r}: write a list of messages")
    return list(value)


def two_texts(value: Any, name: str) -> tuple[str, str]:
    """Returns a list of two texts; anything else is an error that names it."""
    if not isinstance(value, list | tuple) or len(value) != 2 or not all(isinstance(text, str) for text in value):
        raise ConversationError(f"{name} is {str(value)[:40]!r}: write a list of two texts")
    return value[0], value[1]


def with_name(name: str, convert: Callable[[], Conversation]) -> Conversation:
    """Returns what a function returns; the error says in which part of the row it is."""
    try:
        return convert()
    except ConversationError as error:
        raise ConversationError(f"{name}: {error}") from error


Forms: TypeAlias = dict[str, tuple[Callable[[Mapping[str, Any]], bool], Callable[[Mapping[str, Any]], JudgedRow]]]
"""Name, test and conversion of each form, in the order in which they are tried."""
