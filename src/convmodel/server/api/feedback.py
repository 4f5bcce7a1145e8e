"""`POST /feedback`: judgements of responses, saved as training data.

Owns: the format of a saved judgement: a conversation of which only the judged turn counts in training.
"""

from datetime import UTC, datetime
from typing import Annotated, Any, Literal, Self

import anyio
from fastapi import APIRouter
from pydantic import Field, StringConstraints, model_validator

from convmodel.server.api.requests import Registry, read_conversation
from convmodel.server.api.schemas import Message, Strict, Text
from convmodel.server.errors import ERRORS, ApiError
from convmodel.server.settings import MAX_BODY, MAX_MESSAGES

router = APIRouter()


class FeedbackRequest(Strict):
    """`POST /feedback`: a judgement of the last message.

    Attributes:
        messages: The conversation up to the judged response.
        rating: Thumb up or down.
        should_have_said: A better response.
    """

    model: Text
    messages: Annotated[list[Message], Field(min_length=2, max_length=MAX_MESSAGES)]
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
    read_conversation(registry.get(body.model), body.messages)
    await anyio.to_thread.run_sync(registry.feedback.add, feedback_record(body))
    return {"object": "feedback", "saved": True}


def feedback_record(body: FeedbackRequest) -> dict[str, Any]:
    """Returns a line of training data, in which a good response has weight 1; a bad one and the context have 0."""
    *context, judged = body.messages
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
