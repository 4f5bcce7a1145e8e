"""`POST /feedback` and `POST /votes`: judgements of one response, and votes for one of two.

Owns: the format of a saved judgement: a conversation of which only the judged turn counts in training.
"""

from dataclasses import asdict
from datetime import UTC, datetime
from math import isfinite
from typing import Annotated, Any, Literal, Self, TypeAlias

import anyio
from fastapi import APIRouter
from pydantic import Field, StringConstraints, model_validator

from convmodel.evaluation.votes import Vote
from convmodel.server.api.body import BodyRoute
from convmodel.server.api.requests import Registry, read_conversation, spoken
from convmodel.server.api.schemas import Message, Strict, Text
from convmodel.server.errors import ERRORS, ApiError
from convmodel.server.serving.model_registry import ServedModel
from convmodel.server.serving.stores import FeedbackStore
from convmodel.server.settings import MAX_BODY, MAX_MESSAGES

router = APIRouter(route_class=BodyRoute)

Label: TypeAlias = Annotated[str, StringConstraints(min_length=1, max_length=200)]


class FeedbackRequest(Strict):
    """`POST /feedback`: a judgement of the last message.

    Attributes:
        messages: The conversation up to the judged response.
        rating: Thumb up or down.
        should_have_said: A better response.
    """

    model: Text
    messages: Annotated[list[Message], Field(min_length=2, max_length=MAX_MESSAGES, fail_fast=True)]
    rating: Literal["up", "down"] | None = None
    should_have_said: Annotated[str, StringConstraints(min_length=1, max_length=MAX_BODY, pattern=r"\S")] | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.rating is None and self.should_have_said is None:
            raise ValueError("give a rating, or should_have_said")
        return self


@router.post("/feedback", responses=ERRORS)
async def feedback(body: FeedbackRequest, registry: Registry) -> dict[str, Any]:
    """Saves a judgement of a response, as a line that `convmodel fit` reads."""
    if registry.feedback is None:
        raise ApiError(404, "feedback is not saved: start the server with --feedback FILE", code="feedback_off")
    await anyio.to_thread.run_sync(_save, registry.feedback, registry.get(body.model), body)
    return {"object": "feedback", "saved": True}


def _save(store: FeedbackStore, served: ServedModel, body: FeedbackRequest) -> None:
    if not body.messages[-1].text.strip():
        raise ApiError(400, "the judged message is blank: judge one with text", param="messages")
    read_conversation(served, body.messages)
    store.add(feedback_record(body))


def feedback_record(body: FeedbackRequest) -> dict[str, Any]:
    """Returns a line of training data, in which a good response has weight 1; a bad one and the context have 0."""
    *context, judged = (body.messages[index] for index in spoken(body.messages))
    is_good = body.should_have_said is not None or body.rating == "up"
    messages = [_record(message, message.text, 0) for message in context]
    record: dict[str, Any] = {
        "messages": [*messages, _record(judged, body.should_have_said or judged.text, int(is_good))],
        "model": body.model,
        "rating": body.rating,
    }
    if body.should_have_said is not None:
        record["said"] = judged.text
    return record | {"at": datetime.now(UTC).isoformat(timespec="seconds")}


def _record(message: Message, text: str, weight: int) -> dict[str, Any]:
    return {"role": message.name or message.role, "content": text, "weight": weight}


class VoteRequest(Strict):
    """`POST /votes`: which of two responses is better; a `winner` of null means neither."""

    context: Annotated[list[Text], Field(min_length=1, max_length=MAX_MESSAGES, fail_fast=True)]
    models: Annotated[list[Label], Field(min_length=2, max_length=2, fail_fast=True)]
    responses: Annotated[list[Text], Field(min_length=2, max_length=2, fail_fast=True)]
    winner: Text | None = None

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.models[0] == self.models[1]:
            raise ValueError("models need two names that differ")
        if self.winner is not None and self.winner not in self.models:
            raise ValueError("winner must be one of the models, or null")
        return self


@router.post("/votes", responses=ERRORS)
async def votes(body: VoteRequest, registry: Registry) -> dict[str, Any]:
    """Saves a vote, and returns how often the second model has won against the first."""
    at = datetime.now(UTC).isoformat(timespec="seconds")
    vote = Vote(body.context, body.models, body.responses, body.winner, at)
    wins = asdict(await anyio.to_thread.run_sync(registry.votes.add, vote))
    finite = {name: value if isfinite(value) else None for name, value in wins.items()}
    return {"object": "votes", "models": body.models, **finite}
