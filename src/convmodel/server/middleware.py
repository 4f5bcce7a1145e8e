"""The middleware that every request passes before it reaches a route.

Owns: access (API keys, Host), limits on heads and bodies, request ids, the headers of every response, and the access
log. It covers all routes; those that need no key are listed here.
"""

import asyncio
import hmac
import logging
import re
import time
import uuid
from collections.abc import Sequence
from contextlib import suppress
from urllib.parse import unquote

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from convmodel.errors import ConfigError
from convmodel.server.errors import ApiError, api_error
from convmodel.server.serving.metrics import Metrics
from convmodel.server.settings import KEY_VARIABLE, LOOPBACK, MAX_BODY, ServerSettings
from convmodel.server.uploads import UploadBody, check_same_site, discard_body, is_bare_action, is_upload, may_discard

logger = logging.getLogger(__name__)
access_logger = logging.getLogger("convmodel.server.access")

PUBLIC = ("/", "/health", "/ready", "/favicon.ico")
"""Paths that need no key; none of them returns private data."""

PUBLIC_FOLDER = "/static/"

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_REQUEST_ID = re.compile(r"[A-Za-z0-9_.-]{1,64}")
_ABSOLUTE_FORM = re.compile(rb"https?://([^/?#@]*)(/.*)?", re.IGNORECASE | re.DOTALL)
_MAX_HEADERS, _MAX_HEADER_BYTES = 100, 16 * 2**10
_RESPONSE_HEADERS = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


class RequestMiddleware:
    """ASGI middleware around the whole application."""

    def __init__(self, app: ASGIApp, settings: ServerSettings, metrics: Metrics) -> None:
        self.app = app
        self._settings = settings
        self._metrics = metrics
        self._keys = [key.encode() for key in settings.api_keys]
        self._hosts = frozenset(host.lower() for host in settings.hosts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or answers it with an error."""
        if scope["type"] != "http":
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        _use_origin_form(scope)
        headers, begin, status = Headers(scope=scope), time.monotonic(), 0
        client_id = headers.get("x-request-id", "")
        request_id = client_id if _REQUEST_ID.fullmatch(client_id) else uuid.uuid4().hex

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = {"X-Request-Id": request_id, **_RESPONSE_HEADERS}
                if {"content-length", "transfer-encoding"} <= {*headers.keys()}:
                    own["Connection"] = "close"  # a proxy may have read another body (RFC 9112, section 6.3)
                MutableHeaders(scope=message).update(own)
            await send(message)

        try:
            try:
                self._check_head(scope, headers)
                app_receive, app_send = receive, send_with_headers
                if is_upload(scope):
                    upload = UploadBody(receive, send_with_headers, self._settings)
                    app_receive, app_send = upload.receive, upload.send
                else:
                    app_receive = _replay(await self._read_body(headers, receive), receive)
            except ApiError as error:
                await self._refuse(error, headers, receive, send_with_headers)
                return
            try:
                await self.app(scope, app_receive, app_send)
            except Exception as error:
                logger.exception("request %s failed", request_id)
                if not status:  # otherwise closing the connection tells the client that the response is incomplete
                    await api_error(error).response()(scope, app_receive, app_send)
        finally:
            self._log(scope, status, time.monotonic() - begin, request_id)

    def _check_head(self, scope: Scope, headers: Headers) -> None:
        """Checks everything that the request head alone shows."""
        size = sum(len(name) + len(value) for name, value in scope["headers"])
        if len(scope["headers"]) > _MAX_HEADERS or size > _MAX_HEADER_BYTES:
            raise ApiError(431, f"a request may have at most {_MAX_HEADERS} headers of {_MAX_HEADER_BYTES} bytes")
        if "*" not in self._hosts and _host_name(headers.get("host", "")) not in self._hosts:
            # Prevents DNS rebinding: a page of another site whose name points here must not read this server.
            message = "the Host header is not a name of this server: start it with --allowed-host NAME"
            raise ApiError(403, message, code="host")
        if self._keys and scope["path"] not in PUBLIC and not scope["path"].startswith(PUBLIC_FOLDER):
            scope.setdefault("state", {})["key"] = self._check_key(headers)
        if scope["method"] in ("POST", "PUT", "PATCH"):
            media_type = headers.get("content-type", "").partition(";")[0].strip().lower()
            expected = "multipart/form-data" if is_upload(scope) else "application/json"
            is_bare = is_bare_action(scope, headers)
            if media_type != expected and not is_bare:
                # Browsers let other sites send forms and plain text without a CORS preflight, but not JSON.
                raise ApiError(415, f"the Content-Type must be {expected}")
            if is_bare or is_upload(scope):
                check_same_site(headers)

    def _check_key(self, headers: Headers) -> int:
        """Returns the number of the request's key among the server's keys."""
        scheme, _, credentials = headers.get("authorization", "").partition(" ")
        key = credentials.strip().encode() if scheme.lower() == "bearer" else b""
        # Compare with all keys, so that the time reveals nothing.
        matches = [hmac.compare_digest(key, allowed) for allowed in self._keys]
        if sum(matches) == 0:
            message = "this server needs a key: send it as `Authorization: Bearer KEY`"
            challenge = {"WWW-Authenticate": "Bearer"}
            raise ApiError(401, message, type="authentication_error", code="invalid_api_key", headers=challenge)
        return matches.index(True)

    async def _read_body(self, headers: Headers, receive: Receive) -> bytes:
        """Reads the whole body, within limits of size and time."""
        length = headers.get("content-length", "")
        too_long = ApiError(413, f"the body is longer than {MAX_BODY} bytes: send fewer messages", code="body_too_long")
        if length.isdecimal() and int(length) > MAX_BODY:
            raise too_long
        body = bytearray()
        try:
            async with asyncio.timeout(self._settings.body_seconds):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ApiError(499, "the client disconnected")
                    body += message.get("body", b"")
                    more = message.get("more_body", False)
                    if len(body) > MAX_BODY:
                        raise too_long
        except TimeoutError:
            raise ApiError(408, f"the body did not arrive within {self._settings.body_seconds:g} s") from None
        return bytes(body)

    async def _refuse(self, error: ApiError, headers: Headers, receive: Receive, send: Send) -> None:
        """Answers a request whose body was not read, and closes the connection."""
        error.headers["Connection"] = "close"
        response = error.response()
        await send({"type": "http.response.start", "status": error.status, "headers": response.raw_headers})
        await send({"type": "http.response.body", "body": bytes(response.body), "more_body": True})
        if may_discard(headers) and error.status not in (408, 499):
            with suppress(TimeoutError):
                await discard_body(receive, self._settings)
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def _log(self, scope: Scope, status: int, seconds: float, request_id: str) -> None:
        """Logs and counts an answered request, without its body and without paths that do not exist."""
        route = getattr(scope.get("route"), "path", "")
        self._metrics.requests.labels(route, str(status)).inc()
        method = scope["method"] if scope["method"] in _METHODS else ""
        fields = {"request": request_id, "method": method, "route": route}
        access_logger.info("request", extra={"fields": fields | {"status": status, "seconds": round(seconds, 4)}})


def _use_origin_form(scope: Scope) -> None:
    """Replaces a request target in absolute form, as RFC 9112, section 3.2.2, says: its host counts, not the header.

    Example:
        >>> scope = {"raw_path": b"http://localhost:80/health", "headers": [(b"host", b"evil.example")]}
        >>> _use_origin_form(scope)
        >>> scope["path"], scope["headers"]
        ('/health', [(b'host', b'localhost:80')])
    """
    if match := _ABSOLUTE_FORM.fullmatch(scope.get("raw_path") or b""):
        host, path = match[1], match[2] or b"/"
        others = [(name, value) for name, value in scope["headers"] if name != b"host"]
        scope.update(raw_path=path, path=unquote(path.decode("latin-1")), headers=[(b"host", host), *others])


def _host_name(host: str) -> str:
    """Returns the name in a Host header, without the port.

    Example:
        >>> [_host_name(host) for host in ("localhost:8000", "[::1]:8000", "[::1]")]
        ['localhost', '[::1]', '[::1]']
    """
    return re.sub(r":\d*$", "", host.lower()) if not host.endswith("]") else host.lower()


def _replay(body: bytes, receive: Receive) -> Receive:
    """Returns a `receive` that first returns a body that was already read."""
    messages: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive_again() -> Message:
        return messages.pop() if messages else await receive()

    return receive_again


def host_names(address: str, names: Sequence[str]) -> tuple[str, ...]:
    """Returns the names that a Host header may have for a server that listens at an address.

    Example:
        >>> host_names("::", ["Chat.example"])
        ('localhost', '127.0.0.1', '[::1]', '[::]', 'chat.example')
    """
    own_name = f"[{address}]" if ":" in address else address
    return tuple(dict.fromkeys((*LOOPBACK, own_name.lower(), *(name.lower() for name in names))))


def listed_hosts(names: str, *, has_key: bool) -> tuple[str, ...]:
    """Returns the names of a list with commas, which a Host header may have.

    Raises:
        ConfigError: If there are none, or any name is allowed although no key is needed.

    Example:
        >>> listed_hosts("chat.example, localhost", has_key=False)
        ('chat.example', 'localhost')
    """
    hosts = tuple(filter(None, map(str.strip, names.split(","))))
    fix = "give the names that clients use, with commas"
    if not hosts:
        raise ConfigError(f"hosts is empty, so that every request would be refused: {fix}")
    if "*" in hosts and not has_key:
        problem = "hosts is *, so that a page of any site could use the server without a key"
        raise ConfigError(f"{problem}: {fix}, or set {KEY_VARIABLE}")
    return hosts
