"""`POST /v1/chat/completions` and `POST /v1/completions`.

Owns: the format of their responses, and the order of their chunks.
"""

import time
import uuid
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from convmodel.server.api.body import BodyRoute
from convmodel.server.api.requests import CacheScope, Registry, submit_chat, submit_completion, submit_to
from convmodel.server.api.schemas import ChatRequest, CompletionRequest
from convmodel.server.api.streaming import DONE, ResponseWriter, event, send_responses, streamed
from convmodel.server.api.tools import CallParts
from convmodel.server.api.usage import chat_logprobs, completion_logprobs, usage
from convmodel.server.errors import ERRORS
from convmodel.server.serving.job import Job, Piece
from convmodel.server.serving.model_registry import ServedModel

router = APIRouter(route_class=BodyRoute)


@router.post("/v1/chat/completions", responses=ERRORS | streamed("chat.completion"), response_model=None)
async def chat_completions(body: ChatRequest, request: Request, registry: Registry, scope: CacheScope) -> Response:
    """Responds to a conversation."""
    served, job = await submit_to(registry, body.model, lambda served: submit_chat(served, body, scope))
    jobs = [job]
    return await send_responses(_ChatWriter(served, body, jobs), jobs, request, registry.settings, stream=body.stream)


@router.post("/v1/completions", responses=ERRORS | streamed("text_completion"), response_model=None)
async def completions(body: CompletionRequest, request: Request, registry: Registry, scope: CacheScope) -> Response:
    """Continues a turn that a text begins, or several."""

    async def submit(served: ServedModel) -> list[Job]:
        jobs: list[Job] = []
        try:
            for text in body.prompts:
                jobs.append(await submit_completion(served, body, text, scope))
        except Exception:
            for job in jobs:
                job.cancel()
            raise
        return jobs

    served, jobs = await submit_to(registry, body.model, submit)
    return await send_responses(
        _CompletionWriter(served, body, jobs), jobs, request, registry.settings, stream=body.stream
    )


class _ChoicesWriter(ResponseWriter):
    """The envelope that both formats share: choices, and token counts at the end."""

    id_prefix: str
    name: str
    chunk_name: str

    def __init__(self, served: ServedModel, body: ChatRequest | CompletionRequest, jobs: Sequence[Job]) -> None:
        self._tokenizer = served.model.tokenizer
        self._include_usage = body.include_usage
        self._jobs = jobs
        self._head = {"id": f"{self.id_prefix}-{uuid.uuid4().hex}", "created": int(time.time()), "model": served.id}

    @abstractmethod
    def choice(self, index: int, pieces: Sequence[Piece]) -> dict[str, Any]:
        """Returns a whole choice."""

    def whole(self, responses: Sequence[Sequence[Piece]]) -> dict[str, Any]:
        choices = [self.choice(index, pieces) for index, pieces in enumerate(responses)]
        return {**self._head, "object": self.name, "choices": choices, "usage": usage(self._jobs)}

    def end(self) -> Iterator[bytes]:
        if self._include_usage:
            yield event({**self._head, "object": self.chunk_name, "choices": [], "usage": usage(self._jobs)})
        yield DONE

    def _chunk(self, choice: dict[str, Any], **more: Any) -> bytes:
        no_usage = {"usage": None} if self._include_usage else {}
        return event({**self._head, "object": self.chunk_name, "choices": [choice], **no_usage, **more})


class _ChatWriter(_ChoicesWriter):
    id_prefix, name, chunk_name = "chatcmpl", "chat.completion", "chat.completion.chunk"

    def __init__(self, served: ServedModel, body: ChatRequest, jobs: Sequence[Job]) -> None:
        super().__init__(served, body, jobs)
        self._body = body
        self._names = [function.name for function in body.callable]
        self._calls = [CallParts(self._names) for _ in range(body.n)] if self._names else []

    def choice(self, index: int, pieces: Sequence[Piece]) -> dict[str, Any]:
        text = "".join(piece.text for piece in pieces)
        parts = CallParts.whole(text, self._names) if self._calls else {"content": text}
        return {
            "index": index,
            "message": {"role": "assistant", "refusal": None, **parts},
            "logprobs": self._logprobs(pieces),
            "finish_reason": "tool_calls" if "tool_calls" in parts else pieces[-1].finish_reason,
        }

    def start(self) -> Iterator[bytes]:
        for index in range(self._body.n):
            content = "" if self._body.may_be_text else None
            yield self._delta(index, {"role": "assistant", "content": content, "refusal": None})

    def piece(self, index: int, piece: Piece) -> Iterator[bytes]:
        deltas = [*self._calls[index].add(piece.text)] if self._calls else [{"content": piece.text}] * bool(piece.text)
        if deltas or (self._body.logprobs and piece.ids):
            logprobs = self._logprobs([piece])
            for delta in deltas or [{} if self._calls else {"content": ""}]:
                yield self._delta(index, delta, logprobs=logprobs)
                logprobs = None
        if piece.finish_reason:
            for delta in self._calls[index].end() if self._calls else ():
                yield self._delta(index, delta)
            is_call = bool(self._calls) and self._calls[index].is_call
            yield self._delta(index, {}, "tool_calls" if is_call else piece.finish_reason)

    def _delta(self, index: int, delta: dict[str, Any], reason: str | None = None, logprobs: Any = None) -> bytes:
        [job] = self._jobs
        # Also for clients that did not request `usage`, in the last chunk of each response.
        losses = {"convmodel": {"left_out": job.left_out, "cut": job.cut}} if reason and job.left_out + job.cut else {}
        return self._chunk({"index": index, "delta": delta, "logprobs": logprobs, "finish_reason": reason}, **losses)

    def _logprobs(self, pieces: Sequence[Piece]) -> dict[str, Any] | None:
        return chat_logprobs(self._tokenizer, pieces) if self._body.logprobs else None


class _CompletionWriter(_ChoicesWriter):
    id_prefix, name, chunk_name = "cmpl", "text_completion", "text_completion"

    def __init__(self, served: ServedModel, body: CompletionRequest, jobs: Sequence[Job]) -> None:
        super().__init__(served, body, jobs)
        self._body = body
        self._echoes = [text if body.echo else "" for text in body.prompts for _ in range(body.n)]
        self._offsets = [len(echo) for echo in self._echoes]  # where the text of each choice's next token begins

    def choice(self, index: int, pieces: Sequence[Piece]) -> dict[str, Any]:
        return self._choice(index, self._echoes[index] + "".join(piece.text for piece in pieces), pieces)

    def start(self) -> Iterator[bytes]:
        if self._body.echo:
            for index, echo in enumerate(self._echoes):
                yield self._chunk({"index": index, "text": echo, "logprobs": None, "finish_reason": None})

    def piece(self, index: int, piece: Piece) -> Iterator[bytes]:
        yield self._chunk(self._choice(index, piece.text, [piece]))

    def _choice(self, index: int, text: str, pieces: Sequence[Piece]) -> dict[str, Any]:
        logprobs = None
        if self._body.logprobs is not None:
            logprobs = completion_logprobs(self._tokenizer, pieces, self._offsets[index])
            self._offsets[index] += sum(map(len, logprobs["tokens"]))
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": pieces[-1].finish_reason}
