"""The connections of a server, of which only as many are open as the system allows files.

Owns: their number, which one is closed for a new one, giving up on clients that do not read, and the answer to what is
not HTTP. It knows nothing of routes.
"""

import asyncio
import json
import logging
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from convmodel.server.errors import ApiError

if sys.platform != "win32":
    import resource

logger = logging.getLogger(__name__)

ACCEPTED_AT_ONCE = 64
"""Connections that asyncio accepts before it tells of the first of them."""

_OTHER_FILES = 64  # that the server may open beside its connections: models, feedback, votes
_MOST = 65_536


def connection_limit() -> int:
    """Returns how many connections may be open, from the process's limit of open files."""
    if sys.platform == "win32":
        return 400  # of the 512 that `select` can watch
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft == resource.RLIM_INFINITY:
        return _MOST
    already = 32
    with suppress(OSError):  # no /proc outside of Linux
        already = len([*Path("/proc/self/fd").iterdir()])
    # Low limits leave less room for everything else.
    return min(_MOST, max(4, soft - already - min(_OTHER_FILES, soft // 8) - min(ACCEPTED_AT_ONCE, soft // 8)))


class Connections:
    """The open connections. At the limit, the oldest idle one is closed for a new one.

    Idle are connections without a request, and then those whose body is still being sent. If there are none, the new
    connection is closed.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.accepted_at_once = max(1, min(ACCEPTED_AT_ONCE, limit // 4))
        self._open: dict[Protocol, None] = {}  # the oldest first
        self._idle: dict[Protocol, None] = {}  # the longest idle first
        self._closed = self._refused = self._failed = 0  # since the last report

    def __len__(self) -> int:
        return len(self._open)

    def add(self, connection: "Protocol") -> None:
        """Adds a new connection, and closes another one or this one if there are too many."""
        self._open[connection] = self._idle[connection] = None
        if len(self._open) <= self.limit:
            return
        oldest = next(iter(self._idle))
        if oldest is connection:
            oldest = next((other for other in self._open if other.receives_body), connection)
        self._closed += oldest is not connection
        self._refused += oldest is connection
        self.remove(oldest)
        oldest.transport.abort()

    def remove(self, connection: "Protocol") -> None:
        """Forgets a connection that is being closed."""
        self._open.pop(connection, None)
        self._idle.pop(connection, None)

    def set_idle(self, connection: "Protocol", idle: bool) -> None:
        """Notes that a request begins, or has been answered."""
        if not idle:
            self._idle.pop(connection, None)
        elif connection in self._open:
            self._idle[connection] = None

    def on_loop_error(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Counts connections that could not be accepted; leaves other errors of the event loop to asyncio."""
        if "socket.accept()" in context.get("message", ""):
            self._failed += 1
        else:
            loop.default_exception_handler(context)

    def report(self) -> None:
        """Logs what was closed and refused since the last call, in at most one line."""
        closed, refused, failed = self._closed, self._refused, self._failed
        self._closed = self._refused = self._failed = 0
        if closed or refused or failed:
            logger.warning(
                "too many connections: %d idle ones were closed, %d new ones refused, %d not accepted; at most %d may "
                "be open: raise the limit of open files (ulimit -n) if that is too few",
                closed,
                refused,
                failed,
                self.limit,
            )


class Protocol(H11Protocol):
    """HTTP/1.1 on one of the `Connections`, whose parse errors have the JSON envelope of all other errors."""

    def __init__(self, open_connections: Connections, stall_seconds: float, **options: Any) -> None:
        """Expects a connection.

        Args:
            open_connections: The server's connections.
            stall_seconds: How long a client may leave a response unread.
            options: Those of uvicorn's protocol.
        """
        super().__init__(**options)
        self._open_connections = open_connections
        self._stall_seconds = stall_seconds
        self._stalled: asyncio.TimerHandle | None = None  # runs while the client does not read

    @property
    def receives_body(self) -> bool:
        """Whether a request's body has not arrived completely."""
        return self.cycle is not None and self.cycle.more_body and not self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begins a connection."""
        super().connection_made(transport)
        self._open_connections.add(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends a connection."""
        self._open_connections.remove(self)
        self._stop_timer()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Waits for the client to read, as long as it may take: whatever sends a response waits, too."""
        super().pause_writing()
        self._stop_timer()
        self._stalled = self.loop.call_later(self._stall_seconds, self._give_up)

    def resume_writing(self) -> None:
        """Sends again."""
        self._stop_timer()
        super().resume_writing()

    def _stop_timer(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _give_up(self) -> None:
        logger.info("a client read nothing for %g s: its connection is closed", self._stall_seconds)
        self.transport.abort()  # to close it would wait until the client has read the rest

    def handle_events(self) -> None:
        """Begins requests whose head has arrived."""
        super().handle_events()
        self._open_connections.set_idle(self, self.cycle is None or self.cycle.response_complete)

    def on_response_complete(self) -> None:
        """Waits for the next request."""
        self._open_connections.set_idle(self, True)
        super().on_response_complete()

    def send_400_response(self, msg: str) -> None:
        """Answers a request that is not valid HTTP or whose head is too long, and closes the connection."""
        error = ApiError(400, "the request is not valid HTTP")
        if getattr(sys.exception(), "error_status_hint", 400) == 431:
            error = ApiError(431, "the headers are too long")
        body = json.dumps(error.envelope).encode()
        headers = {"Content-Type": "application/json", "Content-Length": str(len(body)), "Connection": "close"}
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):  # otherwise a response has begun already
            head = h11.Response(status_code=error.status, headers=[*headers.items()])
            for event in (head, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()
