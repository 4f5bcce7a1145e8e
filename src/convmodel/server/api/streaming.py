"""Jobs to HTTP responses: whole ones, and streams of server-sent events.

Owns: the loop from a job's pieces to events, noticing that a client has disconnected, and keeping silent streams alive.
It does not know the format of any API: a `ResponseWriter` does.
"""

import asyncio
import json
import logging
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from convmodel.server.errors import ApiError, api_error
from convmodel.server.serving.job import Job, Piece, pieces_of
from convmodel.server.settings import ServerSettings

logger = logging.getLogger(__name__)

DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"


def event(content: Any, name: str | None = None) -> bytes:
    """Returns one server-sent event, as the HTML standard defines it (section 9.2)."""
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(content, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()


def streamed(name: str) -> dict[int | str, dict[str, Any]]:
    """Describes a response that is one object or a stream of its chunks, for the OpenAPI document."""
    content = {
        "application/json": {"schema": {"type": "object", "description": name}},
        "text/event-stream": {},  # OpenAPI 3.1 cannot describe single events: a schema would apply to the whole body
    }
    return {200: {"description": f"the response; with `stream`, events with chunks of {name}", "content": content}}


class ResponseWriter(ABC):
    """Writes the responses of some jobs in the format of one API, whole or as events."""

    @abstractmethod
    def whole(self, responses: Sequence[Sequence[Piece]]) -> dict[str, Any]:
        """Returns the body of a response that is not streamed, from the pieces of each response."""

    @abstractmethod
    def start(self) -> Iterator[bytes]:
        """Yields the events before the first piece."""

    @abstractmethod
    def piece(self, index: int, piece: Piece) -> Iterator[bytes]:
        """Yields the events of one piece of the response with that index."""

    @abstractmethod
    def end(self) -> Iterator[bytes]:
        """Yields the events after the last piece."""

    def error(self, envelope: dict[str, Any]) -> bytes:
        """Returns the event that ends a stream with an error."""
        return event(envelope)


async def send_responses(
    writer: ResponseWriter, jobs: Sequence[Job], request: Request, settings: ServerSettings, *, stream: bool
) -> Response:
    """Returns the response to some jobs: whole, once they have finished, or as a stream."""
    if stream:
        return EventStream(writer, jobs, settings)
    responses: list[list[Piece]] = [[] for job in jobs for _ in range(job.responses)]

    async def collect() -> None:
        async for item in pieces_of(jobs):
            if item:
                responses[item[0]].append(item[1])

    collecting = asyncio.ensure_future(collect())
    if not await _run_until_disconnect(collecting, jobs, request.receive):
        raise ApiError(499, "the client disconnected")  # nobody reads this; the access log has the status
    return JSONResponse(writer.whole(responses))


class EventStream(Response):
    """A stream of server-sent events. It cancels its jobs when the client disconnects."""

    media_type = "text/event-stream"

    def __init__(self, writer: ResponseWriter, jobs: Sequence[Job], settings: ServerSettings) -> None:
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._writer = writer
        self._jobs = jobs
        self._settings = settings

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends all events."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        await _run_until_disconnect(asyncio.ensure_future(self._send_events(send)), self._jobs, receive)

    async def _events(self) -> AsyncIterator[bytes]:
        for content in self._writer.start():
            yield content
        async for item in pieces_of(self._jobs, ping_seconds=self._settings.ping_seconds):
            for content in self._writer.piece(*item) if item else (PING,):
                yield content
        for content in self._writer.end():
            yield content

    async def _send_events(self, send: Send) -> None:
        async def write(content: bytes, more: bool = True) -> None:
            await send({"type": "http.response.body", "body": content, "more_body": more})

        try:
            async for content in self._events():
                await write(content)
        except Exception as error:
            if not isinstance(error, ApiError):
                logger.exception("a stream failed")
            await write(self._writer.error(api_error(error).envelope))
        await write(b"", more=False)


async def _run_until_disconnect(task: "asyncio.Future[None]", jobs: Sequence[Job], receive: Receive) -> bool:
    """Waits for a task, or until the client disconnects and it is cancelled; returns whether the task finished."""
    disconnect = asyncio.ensure_future(_wait_for_disconnect(receive))
    try:
        await asyncio.wait({task, disconnect}, return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            task.result()
        return task.done()
    finally:
        for job in jobs:
            job.cancel()  # does nothing to a finished job
        task.cancel()
        disconnect.cancel()
        await asyncio.gather(task, disconnect, return_exceptions=True)


async def _wait_for_disconnect(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
