"""`POST /v1/chat/completions`.

Owns: the format of its responses and the order of its chunks.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from convmodel.server.api.openapi import ERRORS, streamed
from convmodel.server.api.requests import Registry, submit_chat
from convmodel.server.api.schemas import ChatRequest
from convmodel.server.api.streaming import DONE, ResponseWriter, event, respond, response_head
from convmodel.server.api.usage import chat_logprobs, usage
from convmodel.server.serving.job import Job, Piece
from convmodel.server.serving.model_registry import ServedModel

router = APIRouter()


@router.post("/v1/chat/completions", responses=ERRORS | streamed("chat.completion"), response_model=None)
async def chat_completions(body: ChatRequest, request: Request, registry: Registry) -> Response:
    """Responds to a conversation."""
    served = registry.get(body.model)
    job = await submit_chat(served, body)
    return await respond(_ChatWriter(served, body, job), [job], request, registry.settings, stream=body.stream)


class _ChatWriter(ResponseWriter):
    def __init__(self, served: ServedModel, body: ChatRequest, job: Job) -> None:
        self._tokenizer = served.model.tokenizer
        self._body = body
        self._job = job
        self._head = response_head("chatcmpl", served.id)

    def whole(self, responses: Sequence[Sequence[Piece]]) -> dict[str, Any]:
        choices = [
            {
                "index": index,
                "message": {"role": "assistant", "content": "".join(piece.text for piece in pieces), "refusal": None},
                "logprobs": self._logprobs(pieces),
                "finish_reason": pieces[-1].finish_reason,
            }
            for index, pieces in enumerate(responses)
        ]
        return {**self._head, "object": "chat.completion", "choices": choices, "usage": usage([self._job])}

    def start(self) -> Iterator[bytes]:
        for index in range(self._body.n):
            yield self._chunk(index, {"role": "assistant", "content": "", "refusal": None})

    def piece(self, index: int, piece: Piece) -> Iterator[bytes]:
        if piece.text or (self._body.logprobs and piece.ids):
            yield self._chunk(index, {"content": piece.text}, logprobs=self._logprobs([piece]))
        if piece.finish_reason:
            yield self._chunk(index, {}, piece.finish_reason)

    def end(self) -> Iterator[bytes]:
        if self._body.include_usage:
            yield event({**self._head, "object": "chat.completion.chunk", "choices": [], "usage": usage([self._job])})
        yield DONE

    def _chunk(self, index: int, delta: dict[str, Any], reason: str | None = None, logprobs: Any = None) -> bytes:
        choice = {"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}
        chunk = {**self._head, "object": "chat.completion.chunk", "choices": [choice]}
        return event(chunk | ({"usage": None} if self._body.include_usage else {}))

    def _logprobs(self, pieces: Sequence[Piece]) -> dict[str, Any] | None:
        return chat_logprobs(self._tokenizer, pieces) if self._body.logprobs else None
