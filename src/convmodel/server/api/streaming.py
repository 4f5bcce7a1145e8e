"""Jobs to responses: whole ones, and streams of events.

Owns: noticing that a client has left, streams that stay alive, and clients that do not read.
"""

import asyncio
import json
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from convmodel.server.errors import ApiError, of_exception
from convmodel.server.serving.job import Job, Piece, pieces_of
from convmodel.server.settings import ServerSettings

logger = logging.getLogger(__name__)

DONE = b"data: [DONE]\n\n"
PING = b": ping\n\n"


def event(content: Any, name: str | None = None) -> bytes:
    r"""Writes one server-sent event, as the HTML standard has it (section 9.2).

    Example:
        >>> event({"text": "Hi"})
        b'data: {"text":"Hi"}\n\n'
    """
    head = f"event: {name}\n" if name else ""
    return f"{head}data: {json.dumps(content, ensure_ascii=False, separators=(',', ':'))}\n\n".encode()


async def collect(jobs: Sequence[Job], request: Request) -> list[list[Piece]]:
    """Waits for all responses of some jobs, and ends the jobs when the client leaves.

    Returns:
        The pieces of each response.

    Raises:
        ApiError: What went wrong; 499 if the client has left.
    """
    found: list[list[Piece]] = [[] for job in jobs for _ in job.texts]

    async def collecting() -> None:
        async for news in pieces_of(jobs):
            if news:
                found[news[0]].append(news[1])

    working, leaving = asyncio.ensure_future(collecting()), asyncio.ensure_future(_left(request.receive))
    try:
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if not working.done():
            raise ApiError(499, "the client has left")  # nobody reads this; logs do
        working.result()
        return found
    finally:
        await _end(jobs, working, leaving)


class EventStream(Response):
    """A stream of server-sent events, which ends its jobs when the client leaves or no longer reads."""

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncIterator[bytes],
        jobs: Sequence[Job],
        settings: ServerSettings,
        failed: Callable[[dict[str, Any]], bytes] = event,
    ) -> None:
        """Makes a stream.

        Args:
            events: The events, the last one included.
            jobs: What is ended with the stream.
            settings: How long a client may leave events unread.
            failed: Writes an error envelope as an event.
        """
        super().__init__(headers={"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})
        del self.headers["content-length"]
        self._events = events
        self._jobs = jobs
        self._settings = settings
        self._failed = failed

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends all events."""
        await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
        sending = asyncio.ensure_future(self._send_all(send))
        leaving = asyncio.ensure_future(_left(receive))
        try:
            await asyncio.wait({sending, leaving}, return_when=asyncio.FIRST_COMPLETED)
            if sending.done():
                sending.result()
        finally:
            await _end(self._jobs, sending, leaving)

    async def _send_all(self, send: Send) -> None:
        async def write(content: bytes, more: bool = True) -> None:
            message = {"type": "http.response.body", "body": content, "more_body": more}
            # Not `wait_for`, which before Python 3.12 can lose a cancellation, and the stream would wait for ever.
            async with asyncio.timeout(self._settings.stall_seconds):
                await send(message)

        try:
            try:
                async for content in self._events:
                    await write(content)
            except TimeoutError:
                raise
            except Exception as error:
                if not isinstance(error, ApiError):
                    logger.exception("a stream failed")
                await write(self._failed(of_exception(error).envelope))
            await write(b"", more=False)
        except TimeoutError:
            logger.info("a client read nothing for %g s: its stream is ended", self._settings.stall_seconds)


async def _end(jobs: Sequence[Job], *tasks: "asyncio.Future[None]") -> None:
    for job in jobs:
        job.cancel()  # those that have ended do not mind
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def _left(receive: Receive) -> None:
    """Waits until the client has left."""
    while (await receive())["type"] != "http.disconnect":
        pass
