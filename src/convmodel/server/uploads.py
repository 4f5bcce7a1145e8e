"""Requests that are not JSON: files, read while they arrive by a route instead of before it, and those without a body.

Owns: which requests these are, whose pages may send them, how long a client may pause, and that a client which still
sends gets its answer. Does not know what is uploaded, nor how large it may be.
"""

import asyncio
import time
from contextlib import suppress
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import Message, Receive, Scope, Send

from convmodel.server.errors import ApiError
from convmodel.server.settings import ServerSettings

UPLOADS = "/v1/files"
"""The path that takes files, as `multipart/form-data`."""

ACTIONS = "/v1/fine_tuning/jobs/"
"""What the paths begin with that take a POST without a body, such as `cancel`."""

_MAX_DISCARDED = 16 * 2**20  # bytes of a refused body that are read before the connection is closed


def is_upload(scope: Scope) -> bool:
    """Returns whether the body of a request is a file."""
    return bool(scope["method"] == "POST" and scope["path"] == UPLOADS)


def is_bare_action(scope: Scope, headers: Headers) -> bool:
    """Returns whether a request has no body where none is needed; some clients send no Content-Type then."""
    is_empty = headers.get("content-length", "0") == "0" and "transfer-encoding" not in headers
    return is_empty and "content-type" not in headers and scope["path"].startswith(ACTIONS)


def check_same_site(headers: Headers) -> None:
    """Refuses what pages of other sites sent; unlike JSON, browsers send this without asking the server first.

    Browsers say where a request comes from, in headers that a page cannot set; other clients send neither.
    """
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if site is None:
        is_own = origin is None or urlsplit(origin).netloc.lower() == headers.get("host", "").lower()
    else:
        is_own = site == "same-origin"
    if not is_own:
        raise ApiError(403, "a page of another site cannot send this here: use this server's own page", code="origin")


class UploadBody:
    """The body of an upload, between the connection and the route that reads it."""

    def __init__(self, receive: Receive, send: Send, settings: ServerSettings) -> None:
        self._receive = receive
        self._send = send
        self._settings = settings
        self._complete = False
        self._end = time.monotonic() + settings.upload_seconds

    async def receive(self) -> Message:
        """Returns the next part of the body.

        Raises:
            ApiError: If the client pauses or takes too long, or disconnects.
        """
        if self._complete:
            return await self._receive()
        if time.monotonic() > self._end:
            raise ApiError(408, f"the file did not arrive within {self._settings.upload_seconds:g} s: split it")
        try:
            async with asyncio.timeout(self._settings.stall_seconds):
                message = await self._receive()
        except TimeoutError:
            problem = f"nothing more of the file arrived for {self._settings.stall_seconds:g} s"
            raise ApiError(408, f"{problem}: send it again") from None
        if message["type"] == "http.disconnect":
            raise ApiError(499, "the client disconnected")
        self._complete = not message.get("more_body", False)
        return message

    async def send(self, message: Message) -> None:
        """Sends a part of the answer; if the route has not read the whole body, drops the rest before the end."""
        if self._complete:
            await self._send(message)
        elif message["type"] == "http.response.start":
            MutableHeaders(scope=message)["Connection"] = "close"
            await self._send(message)
        elif message.get("more_body", False):
            await self._send(message)
        else:
            await self._send({**message, "more_body": True})
            with suppress(TimeoutError):
                await discard_body(self._receive, self._settings)
            await self._send({"type": "http.response.body", "body": b"", "more_body": False})


async def discard_body(receive: Receive, settings: ServerSettings) -> None:
    """Reads and drops a body, within limits of size and time.

    It must not be taken for the next request. And if the connection were closed while it arrives, the system would
    reset it, and clients that send before they read would lose the answer.
    """
    size, more = 0, True
    async with asyncio.timeout(settings.body_seconds):
        while more and size <= _MAX_DISCARDED:
            async with asyncio.timeout(settings.linger_seconds):
                message = await receive()
            size += len(message.get("body", b""))
            more = message.get("more_body", False)


def may_discard(headers: Headers) -> bool:
    """Returns whether a body is short enough to be dropped, as far as its length is known."""
    length = headers.get("content-length", "")
    return not (length.isdecimal() and int(length) > _MAX_DISCARDED)
