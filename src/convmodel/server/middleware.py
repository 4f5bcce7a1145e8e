"""What every request passes before any route sees it.

Owns: who may ask (keys, Host), how much may be sent and how slowly, request ids, headers of every response, and the log
of requests. One gate for all routes; those that need no key are listed here.
"""

import asyncio
import hmac
import logging
import re
import time
import uuid
from collections.abc import Sequence

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from convmodel.server.errors import ApiError, of_exception
from convmodel.server.serving.metrics import Metrics
from convmodel.server.settings import LOOPBACK, MAX_BODY, ServerSettings

logger = logging.getLogger(__name__)
access_logger = logging.getLogger("convmodel.server.access")

PUBLIC = ("/", "/health", "/ready", "/favicon.ico")
"""Paths that need no key, and nothing that is anybody's can be read at."""

PUBLIC_FOLDER = "/static/"

_REQUEST_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_MOST_HEADERS, _LONGEST_HEADERS = 100, 16 * 2**10
_ALWAYS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class Gate:
    """The middleware around the application."""

    def __init__(self, app: ASGIApp, settings: ServerSettings, metrics: Metrics) -> None:
        self._app = app
        self._settings = settings
        self._metrics = metrics
        self._keys = [key.encode() for key in settings.api_keys]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Lets a request through, or answers it with an error."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self._app(scope, receive, send)
            return
        headers, begin, status = Headers(scope=scope), time.monotonic(), 0
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                told = MutableHeaders(scope=message)
                told["X-Request-Id"] = request_id
                for name, value in _ALWAYS.items():
                    told[name] = value
            await send(message)

        try:
            try:
                self._check(scope, headers)
                body = await self._body(scope, headers, receive)
            except ApiError as error:
                # What of the body is still on its way would be taken for a next request.
                error.headers["Connection"] = "close"
                await error.response()(scope, receive, sending)
                return
            try:
                await self._app(scope, _again(body, receive), sending)
            except Exception as error:
                logger.exception("request %s failed", request_id)
                if not status:  # else the connection is closed, which tells that something is missing
                    await of_exception(error).response()(scope, receive, sending)
        finally:
            self._log(scope, status, time.monotonic() - begin, request_id)

    def _check(self, scope: Scope, headers: Headers) -> None:
        """Checks all that can be told from the head of a request."""
        length = sum(len(name) + len(value) for name, value in scope["headers"])
        if len(scope["headers"]) > _MOST_HEADERS or length > _LONGEST_HEADERS:
            raise ApiError(431, f"at most {_MOST_HEADERS} headers of {_LONGEST_HEADERS} bytes are read")
        hosts = self._settings.hosts
        if "*" not in hosts and _without_port(headers.get("host", "")) not in hosts:
            # A page of another site, whose name was made to point here, must not read what this server says.
            raise ApiError(
                403, "the Host header names no host of this server: start it with --allowed-host NAME", code="host"
            )
        if not self._is_public(scope["path"]):
            self._check_key(headers)
        if scope["method"] in ("POST", "PUT", "PATCH"):
            kind = headers.get("content-type", "").partition(";")[0].strip().lower()
            if kind != "application/json":
                # Other sites' pages may send forms and plain text here without asking, but not JSON.
                raise ApiError(415, "the Content-Type must be application/json")

    def _is_public(self, path: str) -> bool:
        return path in PUBLIC or path.startswith(PUBLIC_FOLDER)

    def _check_key(self, headers: Headers) -> None:
        if not self._keys:
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        found = given.strip().encode() if scheme.lower() == "bearer" else b""
        # All are compared, so that the time tells nothing.
        if sum(hmac.compare_digest(found, key) for key in self._keys) == 0:
            raise ApiError(
                401,
                "this server needs a key: send it as `Authorization: Bearer KEY`",
                type="authentication_error",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    async def _body(self, scope: Scope, headers: Headers, receive: Receive) -> bytes:
        """Reads the whole body, which must be short and come soon."""
        told = headers.get("content-length", "")
        too_long = ApiError(413, f"the body is longer than {MAX_BODY} bytes: send fewer messages", code="body_too_long")
        if told.isdecimal() and int(told) > MAX_BODY:
            raise too_long
        body = bytearray()
        try:
            async with asyncio.timeout(self._settings.body_seconds):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ApiError(499, "the client has left")
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) > MAX_BODY:
                        raise too_long
        except TimeoutError:
            raise ApiError(408, f"the body did not arrive within {self._settings.body_seconds:g} s") from None
        return bytes(body)

    def _log(self, scope: Scope, status: int, seconds: float, request_id: str) -> None:
        """Notes that a request was answered; what it asked, and paths that do not exist, are not noted."""
        route = getattr(scope.get("route"), "path", "")
        self._metrics.requests.labels(route, str(status)).inc()
        told = {"request": request_id, "method": scope["method"] if scope["method"] in _METHODS else "", "route": route}
        access_logger.info("request", extra={"told": told | {"status": status, "seconds": round(seconds, 4)}})


_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")


def _without_port(host: str) -> str:
    """Returns a Host header's name.

    Example:
        >>> [_without_port(host) for host in ("localhost:8000", "[::1]:8000", "[::1]")]
        ['localhost', '[::1]', '[::1]']
    """
    return re.sub(r":\d*$", "", host.lower()) if not host.endswith("]") else host.lower()


def _again(body: bytes, receive: Receive) -> Receive:
    """Gives a body that has been read once more, and then whatever comes."""
    given = False

    async def receiving() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": body, "more_body": False}

    return receiving


def hosts_of(address: str, more: Sequence[str]) -> tuple[str, ...]:
    """Returns the names under which a server that listens at an address may be asked."""
    own = f"[{address}]" if ":" in address else address
    return tuple(dict.fromkeys((*LOOPBACK, own.lower(), *(name.lower() for name in more))))
