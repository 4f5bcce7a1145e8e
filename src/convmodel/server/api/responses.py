"""`POST /v1/responses`: the part of OpenAI's newer API that needs no memory of earlier requests.

Owns: the format of its responses, and the order and numbers of its events.
"""

import time
import uuid
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import count
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from convmodel.errors import ConversationError
from convmodel.generation.output import FinishReason
from convmodel.server.api.body import BodyRoute
from convmodel.server.api.requests import CacheScope, Registry, submit_chat, submit_to
from convmodel.server.api.schemas import ResponsesRequest
from convmodel.server.api.streaming import ResponseWriter, event, send_responses, streamed
from convmodel.server.api.usage import usage
from convmodel.server.errors import ERRORS, ApiError, api_error
from convmodel.server.serving.job import Job, Piece

router = APIRouter(route_class=BodyRoute)


@router.post("/v1/responses", responses=ERRORS | streamed("response"), response_model=None)
async def responses(body: ResponsesRequest, request: Request, registry: Registry, scope: CacheScope) -> Response:
    """Responds to a text or a conversation."""
    submit = partial(submit_chat, body=body.as_chat(), scope=scope, truncate=body.truncation == "auto")
    try:
        _, job = await submit_to(registry, body.model, submit)
    except (ApiError, ConversationError) as error:
        converted = api_error(error)
        is_system = converted.envelope["error"]["code"] == "system_message" and body.instructions
        names = {"messages": "instructions" if is_system else "input", "max_completion_tokens": "max_output_tokens"}
        names["response_format"] = "text.format"
        raise converted.renamed(names) from error
    return await send_responses(_ResponsesWriter(body, job), [job], request, registry.settings, stream=body.stream)


class _ResponsesWriter(ResponseWriter):
    def __init__(self, body: ResponsesRequest, job: Job) -> None:
        self._body = body
        self._job = job
        self._id, self._item_id = f"resp_{uuid.uuid4().hex}", f"msg_{uuid.uuid4().hex}"
        self._created = int(time.time())
        self._numbers = count()
        self._place = {"item_id": self._item_id, "output_index": 0, "content_index": 0}
        self._text = ""
        self._reason: FinishReason | None = None

    def whole(self, responses: Sequence[Sequence[Piece]]) -> dict[str, Any]:
        [pieces] = responses
        return self._response("".join(piece.text for piece in pieces), pieces[-1].finish_reason)

    def start(self) -> Iterator[bytes]:
        yield self._event("response.created", response=self._response(None, None))
        yield self._event("response.in_progress", response=self._response(None, None))
        empty = self._item("", "in_progress") | {"content": []}
        yield self._event("response.output_item.added", output_index=0, item=empty)
        yield self._event("response.content_part.added", **self._place, part=_part(""))

    def piece(self, index: int, piece: Piece) -> Iterator[bytes]:
        self._text, self._reason = self._text + piece.text, piece.finish_reason
        if piece.text:
            yield self._event("response.output_text.delta", **self._place, delta=piece.text, logprobs=[])

    def end(self) -> Iterator[bytes]:
        text = self._text
        yield self._event("response.output_text.done", **self._place, text=text, logprobs=[])
        yield self._event("response.content_part.done", **self._place, part=_part(text))
        status = "completed" if self._reason == "stop" else "incomplete"
        yield self._event("response.output_item.done", output_index=0, item=self._item(text, status))
        yield self._event(f"response.{status}", response=self._response(text, self._reason))

    def error(self, envelope: dict[str, Any]) -> bytes:
        details = envelope["error"]
        error = {"code": details["code"] or "server_error", "message": details["message"]}
        return self._event("response.failed", response=self._response(None, None, error=error))

    def _response(self, text: str | None, reason: FinishReason | None, *, error: Any = None) -> dict[str, Any]:
        """Returns the response object; a text of None means that no text was generated yet."""
        status = "failed" if error else {"stop": "completed", "length": "incomplete", None: "in_progress"}[reason]
        body = self._body
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "background": False,
            "error": error,
            "incomplete_details": {"reason": "max_output_tokens"} if reason == "length" else None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "model": body.model,
            "output": [] if text is None else [self._item(text, status)],
            "parallel_tool_calls": False,
            "previous_response_id": None,
            "store": False,
            "temperature": body.temperature,
            "text": {"format": body.text.format.model_dump(by_alias=True)},
            "tool_choice": "none",
            "tools": [],
            "top_p": body.top_p,
            "truncation": body.truncation,
            "usage": self._usage() if reason else None,
            "user": body.user,
            "metadata": body.metadata or {},
        }

    def _event(self, name: str, **content: Any) -> bytes:
        return event({"type": name, "sequence_number": next(self._numbers), **content}, name)

    def _item(self, text: str, status: str) -> dict[str, Any]:
        return {"id": self._item_id, "type": "message", "status": status, "role": "assistant", "content": [_part(text)]}

    def _usage(self) -> dict[str, Any]:
        counts = usage([self._job])
        return {
            "input_tokens": counts["prompt_tokens"],
            "input_tokens_details": counts["prompt_tokens_details"],
            "output_tokens": counts["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": counts["total_tokens"],
            "convmodel": counts["convmodel"],
        }


def _part(text: str) -> dict[str, Any]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": []}
