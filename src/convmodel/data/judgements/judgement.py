"""Judgements: what people thought of responses.

Owns: what a judgement is, its kinds, and the JSON object that `serve`, `compare` and the chat page write as a line.
Knows no files. Rows become judgements in `shapes.py`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from convmodel.conversation import Conversation
from convmodel.data.reading.judged_forms import judged_row
from convmodel.data.reading.judged_row import require_other_speaker
from convmodel.errors import ConversationError

KINDS = {
    "thumb": "a response was liked or disliked",
    "edit": "somebody wrote a better response",
    "vote": "somebody chose one of two responses",
    "regeneration": "a response was generated again, and the conversation continued with the new one",
    "pair": "two responses, of which one is better, from other programs' files",
}
"""The kinds of judgements, and what each means."""


@dataclass(frozen=True, slots=True)
class Judgement:
    """A good response to a context, a bad one, or both.

    Attributes:
        context: The turns before the response.
        responder: Who responds: a speaker's name.
        chosen: The response that is liked, or better than `rejected`; None if there is none.
        rejected: The response that is disliked, or worse than `chosen`; None if there is none.
        kind: One of `KINDS`.
        model: The name of the model that wrote the judged response; empty if unknown.
        fingerprint: That model's `model_fingerprint`; empty if unknown.
        at: When it was judged, as ISO 8601; empty if unknown.
        weight: Its weight in the loss: 1 by default, 0 to leave it out.
        id: Where it comes from, for messages; ignored by comparisons.

    Raises:
        ConversationError: If there is no response, one is blank, or the responder has the last turn of the context.

    Example:
        >>> Judgement(Conversation(["Hello"]), "assistant", chosen="Hi!", kind="thumb").rejected is None
        True
    """

    context: Conversation
    responder: str
    chosen: str | None = None
    rejected: str | None = None
    kind: str = "pair"
    model: str = ""
    fingerprint: str = ""
    at: str = ""
    weight: float = 1.0
    id: str | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        given = {name: text for name in ("chosen", "rejected") if (text := getattr(self, name)) is not None}
        if not given:
            raise ConversationError("a judgement has no response: give chosen, rejected or both")
        for name, text in given.items():
            if not isinstance(text, str) or not text.strip():
                raise ConversationError(f"{name} is {text!r}: a response is a text that is not blank")
            self._check_response(name, text)
        require_other_speaker(self.context, self.responder)
        if not isinstance(self.kind, str) or self.kind not in KINDS:
            raise ConversationError(f"kind is {self.kind!r}: it must be one of {', '.join(KINDS)}")
        for name in ("model", "fingerprint", "at"):
            if not isinstance(getattr(self, name), str):
                raise ConversationError(f"{name} is {getattr(self, name)!r}: it must be a text")
        if not isinstance(self.weight, int | float) or isinstance(self.weight, bool) or not 0 <= self.weight < 1e6:
            raise ConversationError(f"weight is {self.weight!r}: it must be a number of at least 0")

    def _check_response(self, name: str, text: str) -> None:
        if not isinstance(self.responder, str) or not self.responder.strip():
            raise ConversationError(f"responder is {self.responder!r}, not the name of a speaker")
        try:
            Conversation([text], [self.responder])
        except ConversationError as error:  # too long, or half a character
            raise ConversationError(f"{name}: {error}") from error

    @property
    def is_pair(self) -> bool:
        """Whether it has both a chosen and a rejected response."""
        return self.chosen is not None and self.rejected is not None

    def conversation(self, response: str) -> Conversation:
        """Returns the context with one of the responses after it."""
        return self.context.with_turn(response, self.responder)

    def to_dict(self) -> dict[str, Any]:
        """Returns the JSON object of a line, without what is unknown.

        Example:
            >>> Judgement(Conversation(["Hello"]), "assistant", chosen="Hi!", rejected="Go.").to_dict()
            {'context': [{'role': 'user', 'content': 'Hello'}], 'responder': 'assistant', 'chosen': 'Hi!', 'rejected': 'Go.', 'kind': 'pair'}
        """  # noqa: E501
        context = replace(self.context, weights=None)  # which mean nothing before a judged response
        line: dict[str, Any] = {"context": context.to_messages(), "responder": self.responder}
        line |= {name: text for name in ("chosen", "rejected") if (text := getattr(self, name)) is not None}
        line["kind"] = self.kind
        line |= {name: text for name in ("model", "fingerprint", "at") if (text := getattr(self, name))}
        return line if self.weight == 1 else line | {"weight": self.weight}

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> "Judgement":
        """Reads what `to_dict` returns, or another form in which rows keep judgements.

        Raises:
            ConversationError: If it is none, is malformed, or neither response is better.
        """
        row = judged_row(value)
        if row.undecided:
            raise ConversationError("neither response is better, so that there is no judgement")
        return cls(row.context, row.responder, row.chosen, row.rejected, **row.facts)
