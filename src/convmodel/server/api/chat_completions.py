"""`POST /v1/chat/completions`.

Owns: the form of its responses and the order of its chunks.
"""

import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from convmodel.layout.tokenizer import ConversationTokenizer
from convmodel.server.api.openapi import ERRORS, streamed
from convmodel.server.api.requests import submit_chat
from convmodel.server.api.schemas import ChatRequest
from convmodel.server.api.streaming import DONE, PING, EventStream, collect, event
from convmodel.server.api.usage import chat_logprobs, usage
from convmodel.server.serving.job import Job, Piece, pieces_of
from convmodel.server.serving.model_registry import Served, Service

router = APIRouter()


@router.post("/v1/chat/completions", responses=ERRORS | streamed("chat.completion"), response_model=None)
async def chat_completions(asked: ChatRequest, request: Request) -> Response:
    """Responds to a conversation."""
    service: Service = request.app.state.service
    served = service.get(asked.model)
    job = await submit_chat(served, asked)
    head = {"id": f"chatcmpl-{uuid.uuid4().hex}", "created": int(time.time()), "model": served.id}
    if asked.stream:
        return EventStream(_events(served, asked, job, head, service), [job], service.settings)
    said = await collect([job], request)
    tokenizer = served.model.tokenizer
    choices = [_choice(tokenizer, asked, index, pieces) for index, pieces in enumerate(said)]
    return JSONResponse({**head, "object": "chat.completion", "choices": choices, "usage": usage([job])})


def _choice(tokenizer: ConversationTokenizer, asked: ChatRequest, index: int, pieces: list[Piece]) -> dict[str, Any]:
    logprobs = None
    if asked.logprobs:
        content = [token for piece in pieces for token in chat_logprobs(tokenizer, piece)["content"]]
        logprobs = {"content": content, "refusal": None}
    return {
        "index": index,
        "message": {"role": "assistant", "content": "".join(piece.text for piece in pieces), "refusal": None},
        "logprobs": logprobs,
        "finish_reason": pieces[-1].finish_reason,
    }


async def _events(
    served: Served, asked: ChatRequest, job: Job, head: dict[str, Any], service: Service
) -> AsyncIterator[bytes]:
    """Yields chunks in OpenAI's order: the roles, the texts, the reasons, the usage if it is wanted, and the end."""
    wants_usage = asked.stream_options is not None and asked.stream_options.include_usage

    def chunk(index: int, delta: dict[str, Any], reason: str | None = None, logprobs: Any = None) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        body = {**head, "object": "chat.completion.chunk", "choices": [choice]}
        return event(body | ({"usage": None} if wants_usage else {}))

    for index in range(asked.n):
        yield chunk(index, {"role": "assistant", "content": "", "refusal": None})
    async for news in pieces_of([job], ping_seconds=service.settings.ping_seconds):
        if news is None:
            yield PING
            continue
        _, piece = news
        if piece.text or (asked.logprobs and piece.ids):
            logprobs = chat_logprobs(served.model.tokenizer, piece) if asked.logprobs else None
            yield chunk(piece.index, {"content": piece.text}, logprobs=logprobs)
        if piece.finish_reason:
            yield chunk(piece.index, {}, piece.finish_reason)
    if wants_usage:
        yield event({**head, "object": "chat.completion.chunk", "choices": [], "usage": usage([job])})
    yield DONE
