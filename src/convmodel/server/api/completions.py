"""`POST /v1/completions`: a turn that a text begins, gone on with.

Owns: the form of its responses and chunks.
"""

import time
import uuid
from collections.abc import AsyncIterator
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from convmodel.server.api.openapi import ERRORS, streamed
from convmodel.server.api.requests import submit_completion
from convmodel.server.api.schemas import CompletionRequest
from convmodel.server.api.streaming import DONE, PING, EventStream, collect, event
from convmodel.server.api.usage import completion_logprobs, usage
from convmodel.server.serving.job import Job, pieces_of
from convmodel.server.serving.model_registry import Served, Service

router = APIRouter()


@router.post("/v1/completions", responses=ERRORS | streamed("text_completion"), response_model=None)
async def completions(asked: CompletionRequest, request: Request) -> Response:
    """Goes on with one text, or with several."""
    service: Service = request.app.state.service
    served = service.get(asked.model)
    jobs: list[Job] = []
    try:
        for text in asked.prompts:
            jobs.append(await submit_completion(served, asked, text))
    except Exception:
        for job in jobs:
            job.cancel()
        raise
    head = {"id": f"cmpl-{uuid.uuid4().hex}", "object": "text_completion", "created": int(time.time())}
    head["model"] = served.id
    if asked.stream:
        return EventStream(_events(served, asked, jobs, head, service), jobs, service.settings)

    said = await collect(jobs, request)
    choices = []
    for index, pieces in enumerate(said):
        begin = asked.prompts[index // asked.n] if asked.echo else ""
        logprobs = None
        if asked.logprobs is not None:
            logprobs = completion_logprobs(served.model.tokenizer, pieces, len(begin))
        text = begin + "".join(piece.text for piece in pieces)
        choices.append(_choice(index, text, pieces[-1].finish_reason, logprobs))
    return JSONResponse({**head, "choices": choices, "usage": usage(jobs)})


def _choice(index: int, text: str, reason: str | None, logprobs: Any = None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": reason}


async def _events(
    served: Served, asked: CompletionRequest, jobs: list[Job], head: dict[str, Any], service: Service
) -> AsyncIterator[bytes]:
    wants_usage = asked.stream_options is not None and asked.stream_options.include_usage
    nothing: dict[str, Any] = {"usage": None} if wants_usage else {}
    offsets = [0] * len(jobs) * asked.n
    if asked.echo:
        for index in range(len(offsets)):
            text = asked.prompts[index // asked.n]
            offsets[index] = len(text)
            yield event({**head, "choices": [_choice(index, text, None)], **nothing})
    async for news in pieces_of(jobs, ping_seconds=service.settings.ping_seconds):
        if news is None:
            yield PING
            continue
        index, piece = news
        logprobs = None
        if asked.logprobs is not None:
            logprobs = completion_logprobs(served.model.tokenizer, [piece], offsets[index])
            offsets[index] += sum(map(len, logprobs["tokens"]))
        yield event({**head, "choices": [_choice(index, piece.text, piece.finish_reason, logprobs)], **nothing})
    if wants_usage:
        yield event({**head, "choices": [], "usage": usage(jobs)})
    yield DONE
