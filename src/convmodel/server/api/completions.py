"""`POST /v1/completions`: continues a turn that a text begins.

Owns: the format of its responses and chunks.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from fastapi import APIRouter, Request
from starlette.responses import Response

from convmodel.server.api.openapi import ERRORS, streamed
from convmodel.server.api.requests import Registry, submit_completion
from convmodel.server.api.schemas import CompletionRequest
from convmodel.server.api.streaming import DONE, ResponseWriter, event, respond, response_head
from convmodel.server.api.usage import completion_logprobs, usage
from convmodel.server.serving.job import Job, Piece
from convmodel.server.serving.model_registry import ServedModel

router = APIRouter()


@router.post("/v1/completions", responses=ERRORS | streamed("text_completion"), response_model=None)
async def completions(body: CompletionRequest, request: Request, registry: Registry) -> Response:
    """Continues one text, or several."""
    served = registry.get(body.model)
    jobs: list[Job] = []
    try:
        for text in body.prompts:
            jobs.append(await submit_completion(served, body, text))
    except Exception:
        for job in jobs:
            job.cancel()
        raise
    return await respond(_CompletionWriter(served, body, jobs), jobs, request, registry.settings, stream=body.stream)


class _CompletionWriter(ResponseWriter):
    def __init__(self, served: ServedModel, body: CompletionRequest, jobs: Sequence[Job]) -> None:
        self._tokenizer = served.model.tokenizer
        self._body = body
        self._jobs = jobs
        self._head = response_head("cmpl", served.id) | {"object": "text_completion"}
        self._echoes = [text if body.echo else "" for text in body.prompts for _ in range(body.n)]
        self._offsets = [len(echo) for echo in self._echoes]  # where the text of each choice's next token begins

    def whole(self, responses: Sequence[Sequence[Piece]]) -> dict[str, Any]:
        choices = [
            self._choice(index, "".join([echo, *(piece.text for piece in pieces)]), pieces)
            for index, (echo, pieces) in enumerate(zip(self._echoes, responses, strict=True))
        ]
        return {**self._head, "choices": choices, "usage": usage(self._jobs)}

    def start(self) -> Iterator[bytes]:
        if self._body.echo:
            for index, echo in enumerate(self._echoes):
                yield self._chunk({"index": index, "text": echo, "logprobs": None, "finish_reason": None})

    def piece(self, index: int, piece: Piece) -> Iterator[bytes]:
        yield self._chunk(self._choice(index, piece.text, [piece]))

    def end(self) -> Iterator[bytes]:
        if self._body.include_usage:
            yield event({**self._head, "choices": [], "usage": usage(self._jobs)})
        yield DONE

    def _chunk(self, choice: dict[str, Any]) -> bytes:
        return event({**self._head, "choices": [choice], **({"usage": None} if self._body.include_usage else {})})

    def _choice(self, index: int, text: str, pieces: Sequence[Piece]) -> dict[str, Any]:
        logprobs = None
        if self._body.logprobs is not None:
            logprobs = completion_logprobs(self._tokenizer, pieces, self._offsets[index])
            self._offsets[index] += sum(map(len, logprobs["tokens"]))
        return {"index": index, "text": text, "logprobs": logprobs, "finish_reason": pieces[-1].finish_reason}
