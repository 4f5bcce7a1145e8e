"""`POST /feedback` and `POST /votes`: judgements of one response, and votes for one of two.

Owns: which judgement a request is. The line that is saved is `data.judgements`'.
"""

from dataclasses import asdict, replace
from datetime import UTC, datetime
from math import isfinite
from typing import Annotated, Any, Literal, Self, TypeAlias

import anyio
from fastapi import APIRouter
from pydantic import Field, StringConstraints, model_validator

from convmodel.conversation import PINNED_ROLES, Conversation
from convmodel.data.judgements.judgement import Judgement
from convmodel.data.reading.judged_row import split_last
from convmodel.errors import ConversationError
from convmodel.evaluation.votes import Vote
from convmodel.server.api.body import BodyRoute
from convmodel.server.api.messages import Message
from convmodel.server.api.requests import Registry, read_conversation, spoken
from convmodel.server.api.strict import Strict, Text
from convmodel.server.errors import ERRORS, ApiError
from convmodel.server.serving.model_registry import ServedModel
from convmodel.server.serving.stores import FeedbackStore
from convmodel.server.settings import MAX_BODY, MAX_MESSAGES

router = APIRouter(route_class=BodyRoute)

Response: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=MAX_BODY, pattern=r"\S")]
Label: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class FeedbackRequest(Strict):
    """`POST /feedback`: a judgement of the last message.

    Attributes:
        messages: The conversation up to the judged response.
        rating: Thumb up or down.
        should_have_said: A better response.
        kind: `regeneration`, if the response was generated again and the conversation continued with the new one.
        rejected: The response before, for a regeneration.
        generated: Whether the model wrote the judged response; otherwise its name and fingerprint are not saved.
        version: The model's version when it wrote the response, as in `/v1/models`; if another one is served now, the
            fingerprint is not saved.
    """

    model: Text
    messages: Annotated[list[Message], Field(min_length=2, max_length=MAX_MESSAGES, fail_fast=True)]
    rating: Literal["up", "down"] | None = None
    should_have_said: Response | None = None
    kind: Literal["regeneration"] | None = None
    rejected: Response | None = None
    generated: bool = True
    version: Label | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        is_rated = self.rating is not None or self.should_have_said is not None
        if self.kind is None and not is_rated:
            raise ValueError("give a rating, or should_have_said")
        if (self.kind is None) != (self.rejected is None) or (self.kind is not None and is_rated):
            raise ValueError("a regeneration has kind and rejected, and neither a rating nor should_have_said")
        return self


@router.post("/feedback", responses=ERRORS)
async def feedback(body: FeedbackRequest, registry: Registry) -> dict[str, Any]:
    """Saves a judgement of a response, as a line that `convmodel fit` reads."""
    if registry.feedback is None:
        raise ApiError(404, "feedback is not saved: start the server with --feedback FILE", code="feedback_off")
    await anyio.to_thread.run_sync(_save, registry.feedback, await registry.load(body.model), body)
    return {"object": "feedback", "saved": True}


def _save(store: FeedbackStore, served: ServedModel, body: FeedbackRequest) -> None:
    if not body.messages[-1].text.strip():
        raise ApiError(400, "the judged message is blank: judge one with text", param="messages")
    judgement = requested_judgement(body, read_conversation(served, body.messages))
    if body.generated and body.version in (None, served.version):
        judgement = replace(judgement, fingerprint=store.fingerprint(served.model.hf_model))
    store.add(judgement.to_dict())


def requested_judgement(body: FeedbackRequest, conversation: Conversation) -> Judgement:
    """Returns the judgement of a request, whose messages are a conversation.

    Raises:
        ApiError: If the last message is no response to the others.
    """
    if body.messages[-1].role in PINNED_ROLES:
        raise ApiError(400, "the judged message is a system message: judge a response", param="messages")
    try:
        context, response = split_last(conversation)
        chosen, rejected, kind = _judged(body, response)
        responder = conversation.turn_speakers[-1]
        model = body.model if body.generated else ""
        return Judgement(context, responder, chosen, rejected, kind=kind, model=model, at=_now())
    except ConversationError as error:
        raise ApiError(400, str(error), param="messages") from error


def _judged(body: FeedbackRequest, response: str) -> tuple[str | None, str | None, str]:
    """Returns the chosen and the rejected response of a request, and the kind of judgement."""
    if body.kind is not None:
        return response, body.rejected, body.kind
    if body.should_have_said is not None:
        return body.should_have_said, response, "edit"
    return (response, None, "thumb") if body.rating == "up" else (None, response, "thumb")


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


class VoteRequest(Strict):
    """`POST /votes`: which of two responses is better; a `winner` of null means neither.

    Attributes:
        context: The messages before the responses, or the texts of their turns alone.
        comparison: Whether the vote is about a new version of a model; such votes are not trained on.
    """

    context: Annotated[list[Text | Message], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    models: Annotated[list[Label], Field(min_length=2, max_length=2, fail_fast=True)]
    responses: Annotated[list[Text], Field(min_length=2, max_length=2, fail_fast=True)]
    winner: Text | None = None
    comparison: bool = False

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.models[0] == self.models[1]:
            raise ValueError("models need two names that differ")
        if self.winner is not None and self.winner not in self.models:
            raise ValueError("winner must be one of the models, or null")
        if self.winner is not None and not any(text.strip() for text in self.responses):
            raise ValueError("both responses are blank, so that winner must be null")
        if len({isinstance(turn, str) for turn in self.context}) > 1:
            raise ValueError("context must be a list of messages, or a list of texts")
        return self

    def conversation(self) -> Conversation:
        """Returns the context as a conversation; raises an `ApiError` if it has no text."""
        messages = [turn for turn in self.context if isinstance(turn, Message)]
        try:
            if not messages:
                return Conversation([turn for turn in self.context if isinstance(turn, str)])
            spoken_messages = [messages[index] for index in spoken(messages)]
            return Conversation.from_messages(
                [{"role": message.name or message.role, "content": message.text} for message in spoken_messages]
            )
        except ConversationError as error:
            raise ApiError(400, f"context: {error}", param="context") from error


@router.post("/votes", responses=ERRORS)
async def votes(body: VoteRequest, registry: Registry) -> dict[str, Any]:
    """Saves a vote, and returns how often the second model has won against the first."""
    vote = Vote(body.conversation(), body.models, body.responses, body.winner, _now(), comparison=body.comparison)
    wins = asdict(await anyio.to_thread.run_sync(registry.votes.add, vote))
    finite = {name: value if isfinite(value) else None for name, value in wins.items()}
    return {"object": "votes", "models": body.models, **finite}
