"""`POST /v1/responses`: the part of OpenAI's newer API that needs no memory of earlier requests.

Owns: the form of its responses, and the order and numbers of its events.
"""

import time
import uuid
from collections.abc import AsyncIterator
from itertools import count
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import JSONResponse, Response

from convmodel.generation.output import FinishReason
from convmodel.server.api.openapi import ERRORS, streamed
from convmodel.server.api.requests import submit_chat
from convmodel.server.api.schemas import ResponsesRequest
from convmodel.server.api.streaming import PING, EventStream, collect, event
from convmodel.server.api.usage import usage
from convmodel.server.serving.job import Job, pieces_of
from convmodel.server.serving.model_registry import Service

router = APIRouter()


@router.post("/v1/responses", responses=ERRORS | streamed("response"), response_model=None)
async def responses(asked: ResponsesRequest, request: Request) -> Response:
    """Responds to a text or a conversation."""
    service: Service = request.app.state.service
    served = service.get(asked.model)
    job = await submit_chat(served, asked.as_chat())
    form = _Form(asked, job)
    if asked.stream:
        events = form.events(service.settings.ping_seconds)
        return EventStream(events, [job], service.settings, failed=form.failed)
    [pieces] = await collect([job], request)
    return JSONResponse(form.response("".join(piece.text for piece in pieces), pieces[-1].finish_reason))


class _Form:
    """One response as OpenAI's API writes it."""

    def __init__(self, asked: ResponsesRequest, job: Job) -> None:
        self._asked = asked
        self._job = job
        self._id, self._item_id = f"resp_{uuid.uuid4().hex}", f"msg_{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._numbers = count()

    def response(self, text: str | None, reason: FinishReason | None, *, error: Any = None) -> dict[str, Any]:
        """Writes the response as far as it has come; a text of None has not begun."""
        status = "failed" if error else {"stop": "completed", "length": "incomplete", None: "in_progress"}[reason]
        asked = self._asked
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "background": False,
            "error": error,
            "incomplete_details": {"reason": "max_output_tokens"} if reason == "length" else None,
            "instructions": asked.instructions,
            "max_output_tokens": asked.max_output_tokens,
            "model": asked.model,
            "output": [] if text is None else [self._item(text, status)],
            "parallel_tool_calls": False,
            "previous_response_id": None,
            "store": False,
            "temperature": asked.temperature,
            "text": {"format": {"type": "text"}},
            "tool_choice": "none",
            "tools": [],
            "top_p": asked.top_p,
            "truncation": "disabled",
            "usage": self._usage() if reason else None,
            "user": asked.user,
            "metadata": asked.metadata or {},
        }

    async def events(self, ping_seconds: float) -> AsyncIterator[bytes]:
        """Yields the events of a stream in OpenAI's order."""
        place = {"item_id": self._item_id, "output_index": 0, "content_index": 0}
        yield self._event("response.created", response=self.response(None, None))
        yield self._event("response.in_progress", response=self.response(None, None))
        empty = self._item("", "in_progress") | {"content": []}
        yield self._event("response.output_item.added", output_index=0, item=empty)
        yield self._event("response.content_part.added", **place, part=_part(""))
        text, reason = "", None
        async for news in pieces_of([self._job], ping_seconds=ping_seconds):
            if news is None:
                yield PING
                continue
            piece = news[1]
            text, reason = text + piece.text, piece.finish_reason
            if piece.text:
                yield self._event("response.output_text.delta", **place, delta=piece.text, logprobs=[])
        yield self._event("response.output_text.done", **place, text=text, logprobs=[])
        yield self._event("response.content_part.done", **place, part=_part(text))
        status = "completed" if reason == "stop" else "incomplete"
        yield self._event("response.output_item.done", output_index=0, item=self._item(text, status))
        yield self._event(f"response.{status}", response=self.response(text, reason))

    def failed(self, envelope: dict[str, Any]) -> bytes:
        """Writes the event of a response that went wrong."""
        error = envelope["error"]
        told = {"code": error["code"] or "server_error", "message": error["message"]}
        return self._event("response.failed", response=self.response(None, None, error=told))

    def _event(self, name: str, **content: Any) -> bytes:
        return event({"type": name, "sequence_number": next(self._numbers), **content}, name)

    def _item(self, text: str, status: str) -> dict[str, Any]:
        return {
            "id": self._item_id,
            "type": "message",
            "status": status,
            "role": "assistant",
            "content": [_part(text)],
        }

    def _usage(self) -> dict[str, Any]:
        counted = usage([self._job])
        return {
            "input_tokens": counted["prompt_tokens"],
            "input_tokens_details": counted["prompt_tokens_details"],
            "output_tokens": counted["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": counted["total_tokens"],
        }


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
