"""The routes beside the responses: models, tokens, feedback, votes, and what a monitor asks.

Owns: what feedback becomes: conversations of which only the judged turn counts in training.
"""

import threading
from datetime import UTC, datetime
from math import isfinite
from pathlib import Path
from typing import Any

import anyio
from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from convmodel.errors import ConversationError, SaveError
from convmodel.evaluation.votes import Vote, add_vote, count_wins, read_votes
from convmodel.files.json_lines import append_line
from convmodel.server.api.openapi import ERRORS
from convmodel.server.api.requests import ENCODING, read_conversation
from convmodel.server.api.schemas import FeedbackRequest, Message, TokenizeRequest, VoteRequest
from convmodel.server.api.tokenize import tokenize
from convmodel.server.errors import ApiError
from convmodel.server.serving.metrics import MEDIA_TYPE
from convmodel.server.serving.model_registry import Service

router = APIRouter()

_MOST_VOTES = 100_000  # that are kept in memory
_writing = threading.Lock()


def _service(request: Request) -> Service:
    service: Service = request.app.state.service
    return service


@router.get("/health")
async def health() -> dict[str, str]:
    """Says that the server is alive."""
    return {"status": "ok"}


@router.get("/ready", responses={503: {"description": "it is loading a model, or about to stop"}})
async def ready(request: Request) -> Response:
    """Says whether requests are answered: not while a model is being loaded or the server is about to stop."""
    state = _service(request).state
    return JSONResponse({"status": state}, 200 if state == "ready" else 503)


@router.get("/metrics", responses={401: ERRORS[401]}, response_class=Response)
async def metrics(request: Request) -> Response:
    """Tells numbers in Prometheus' format."""
    return Response(_service(request).metrics.text(), media_type=MEDIA_TYPE)


@router.get("/v1/models", responses=ERRORS)
async def models(request: Request) -> dict[str, Any]:
    """Lists the models."""
    service = _service(request)
    feedback = service.settings.feedback is not None
    return {"object": "list", "data": [each.describe(feedback=feedback) for each in service.served]}


@router.get("/v1/models/{id:path}", responses=ERRORS)
async def model(id: str, request: Request) -> dict[str, Any]:
    """Describes one model."""
    service = _service(request)
    return service.get(id).describe(feedback=service.settings.feedback is not None)


@router.post("/tokenize", responses=ERRORS)
async def tokens(asked: TokenizeRequest, request: Request) -> dict[str, Any]:
    """Shows the exact prompt of a conversation: ids, types, pieces of text."""
    served = _service(request).get(asked.model)
    return await anyio.to_thread.run_sync(tokenize, served, asked, limiter=ENCODING)


@router.post("/feedback", responses=ERRORS)
async def feedback(asked: FeedbackRequest, request: Request) -> dict[str, Any]:
    """Saves what somebody thinks of a response, as a line that `convmodel fit` reads."""
    service = _service(request)
    place = service.settings.feedback
    if place is None:
        raise ApiError(404, "feedback is not saved: start the server with --feedback FILE", code="feedback_off")
    read_conversation(service.get(asked.model), asked.messages)
    await anyio.to_thread.run_sync(_add_line, place, feedback_record(asked))
    return {"object": "feedback", "saved": True}


@router.post("/votes", responses=ERRORS)
async def votes(asked: VoteRequest, request: Request) -> dict[str, Any]:
    """Counts a vote, and tells how often the second model has won."""
    at = datetime.now(UTC).isoformat(timespec="seconds")
    vote = Vote(asked.context, asked.models, asked.responses, asked.winner, at)
    found = await anyio.to_thread.run_sync(_add_vote, request.app.state.votes, _service(request).settings.votes, vote)
    first, second = asked.models
    wins = count_wins(found, first, second)
    measured = {"rate": wins.rate, "low": wins.low, "high": wins.high}
    return {
        "object": "votes",
        "models": [first, second],
        "wins": wins.wins,
        "losses": wins.losses,
        "neither": wins.neither,
    } | {name: value if isfinite(value) else None for name, value in measured.items()}


def feedback_record(asked: FeedbackRequest) -> dict[str, Any]:
    """Makes a line of training data: the right response counts, one that was disliked does not, and the context never.

    Example:
        >>> asked = FeedbackRequest(
        ...     model="m",
        ...     messages=[Message(role="user", content="Hi"), Message(role="assistant", content="Go away")],
        ...     should_have_said="Hello!",
        ... )
        >>> [(message["content"], message["weight"]) for message in feedback_record(asked)["messages"]]
        [('Hi', 0), ('Hello!', 1)]
    """
    *context, judged = asked.messages
    right = asked.should_have_said is not None or asked.rating == "up"
    messages = [_record(message, message.text, 0) for message in context]
    record: dict[str, Any] = {
        "messages": [*messages, _record(judged, asked.should_have_said or judged.text, int(right))],
        "model": asked.model,
        "rating": asked.rating,
    }
    if asked.should_have_said is not None:
        record["said"] = judged.text
    return record | {"at": datetime.now(UTC).isoformat(timespec="seconds")}


def _record(message: Message, text: str, weight: int) -> dict[str, Any]:
    return {"role": message.name or message.role, "content": text, "weight": weight}


def _add_line(place: Path, record: dict[str, Any]) -> None:
    with _writing:
        append_line(place, record, fix="choose another --feedback")


def _read_votes(place: Path) -> list[Vote]:
    try:
        return read_votes(place)
    except ConversationError as error:
        raise SaveError(str(error)) from error  # nothing of the request is wrong


def _add_vote(known: list[Vote], place: Path | None, vote: Vote) -> list[Vote]:
    with _writing:
        if place is not None:
            if not known:
                known += _read_votes(place)
            add_vote(place, vote)
        known.append(vote)
        del known[:-_MOST_VOTES]
        return list(known)
