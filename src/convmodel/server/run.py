"""Runs the server: listening, logs, and shutting down.

Owns: the reaction to signals (new requests are refused, running ones are finished, then the server stops), and the
format of the logs: one line per request, for people on a terminal and as JSON elsewhere, without text of conversations.
"""

import asyncio
import json
import logging
import signal
import socket
import time
from functools import partial
from types import FrameType
from typing import Any

import uvicorn

from convmodel.data.stop_request import signal_name
from convmodel.errors import ConfigError
from convmodel.server.app import create_app
from convmodel.server.connections import Connections, Protocol, connection_limit
from convmodel.server.fine_tuning.service import FineTuning
from convmodel.server.serving.model_registry import ModelRegistry

logger = logging.getLogger(__name__)
_server_log = logging.getLogger("uvicorn.error")


class JsonFormatter(logging.Formatter):
    """Formats each record as one JSON object; `extra={"fields": {...}}` adds fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line."""
        fields = {
            "at": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(record.created)),
            "level": record.levelname.lower(),
            "message": record.getMessage(),
            **getattr(record, "fields", {}),
        }
        if record.exc_info:
            fields["traceback"] = self.formatException(record.exc_info)
        return json.dumps(fields, ensure_ascii=False)


class TerminalFormatter(logging.Formatter):
    """Formats each record as one line for people; a line that shows progress is erased first, and drawn again below."""

    def format(self, record: logging.LogRecord) -> str:
        """Returns the line, and the traceback if there is one."""
        fields = getattr(record, "fields", {})
        text = record.getMessage()
        if "route" in fields:
            route = fields["route"] or "unknown path"
            text = f"{fields['method']:<4} {route:<22} {fields['status']} {_show(fields['seconds'])}"
        if record.exc_info:
            text += f"\n{self.formatException(record.exc_info)}"
        return f"\r\x1b[K{time.strftime('%H:%M:%S', time.localtime(record.created))}  {text}"


def _show(seconds: float) -> str:
    """Formats a time.

    Example:
        >>> [_show(seconds) for seconds in (0.0123, 1.2345, 123.4)]
        ['  12 ms', ' 1.2 s', '123.4 s']
    """
    return f"{1000 * seconds:4.0f} ms" if seconds < 1 else f"{seconds:4.1f} s"


def format_logs() -> None:
    """Makes all handlers of the root logger write JSON, or lines for people where they write to a terminal."""
    for handler in logging.getLogger().handlers:
        stream = getattr(handler, "stream", None)
        is_terminal = stream is not None and stream.isatty()
        handler.setFormatter(TerminalFormatter() if is_terminal else JsonFormatter())
        if is_terminal and logging.getLogger().level == logging.INFO:
            logging.getLogger("uvicorn").setLevel(logging.WARNING)  # its steps at the start and the end


def listen(host: str, port: int) -> socket.socket:
    """Opens the socket that a server listens on."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With the protocol given explicitly, asyncio disables Nagle's algorithm. Otherwise a response whose head and
    # body are written separately would wait 40 ms for an acknowledgement.
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        # On Windows, SO_REUSEADDR would let a second server take the same port.
        reuse = getattr(socket, "SO_EXCLUSIVEADDRUSE", socket.SO_REUSEADDR)
        sock.setsockopt(socket.SOL_SOCKET, reuse, 1)
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}; give another --port or --host") from error
    return sock


def run(registry: ModelRegistry, sock: socket.socket, fine_tuning: FineTuning | None = None) -> None:
    """Serves until a signal, then finishes all running requests; raises the error of loading the models, if any."""
    try:
        asyncio.run(make_server(registry, fine_tuning).serve([sock]))
    finally:
        _server_log.removeFilter(_is_not_cancellation)  # which a second signal adds
    if registry.error is not None:
        raise registry.error


def make_server(registry: ModelRegistry, fine_tuning: FineTuning | None = None) -> uvicorn.Server:
    """Returns the server of a registry; its `handle_exit` shuts it down gracefully."""
    connections = Connections(connection_limit())
    http: Any = partial(Protocol, connections, registry.settings.stall_seconds)
    config = uvicorn.Config(
        create_app(registry, fine_tuning),
        http=http,
        backlog=connections.accepted_at_once,
        log_config=None,
        access_log=False,  # the middleware writes one without paths and queries
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=round(registry.settings.head_seconds),
        timeout_graceful_shutdown=5,
        h11_max_incomplete_event_size=32 * 2**10,
        ws="none",
    )
    return _Server(config, registry, connections)


_TICKS_PER_SECOND = 10  # calls of `on_tick` by uvicorn
_BACKLOG = 2048  # connections that the system keeps until they are accepted


def _is_not_cancellation(record: logging.LogRecord) -> bool:
    """Returns whether a record reports something other than an aborted request."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


class _Server(uvicorn.Server):
    """A uvicorn server that finishes running requests before it stops."""

    def __init__(self, config: uvicorn.Config, registry: ModelRegistry, connections: Connections) -> None:
        super().__init__(config)
        # Added by a second signal. An embedded server is not run by `run`, and would leave it to later ones.
        _server_log.removeFilter(_is_not_cancellation)
        self._registry = registry
        self._connections = connections
        self._stopping = False
        self._draining: asyncio.Future[None] | None = None
        self._idle: dict[Any, tuple[Any, float]] = {}  # per idle connection: last request, time since when

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begins to listen."""
        asyncio.get_running_loop().set_exception_handler(self._connections.on_loop_error)
        await super().startup(sockets)
        for sock in sockets or ():
            sock.listen(_BACKLOG)  # asyncio has set it to how many it accepts at once

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begins to shut down; a second signal stops the server at once."""
        if self._stopping:
            self.should_exit = self.force_exit = True
            _server_log.addFilter(_is_not_cancellation)
            return
        self._stopping = True
        self._registry.drain()
        verb = "press" if sig == signal.SIGINT else "send"
        again = f"{verb} {signal_name(sig)} again"
        logger.info("shutting down: new requests are refused; %s to abort running ones", again)

    async def on_tick(self, counter: int) -> bool:
        """Checks ten times per second whether to stop."""
        if self._registry.state == "failed":
            self.should_exit = True
        if self._stopping and self._draining is None:
            self._draining = asyncio.ensure_future(self._drain())
        if counter % _TICKS_PER_SECOND == 0:
            self._close_idle(time.monotonic())
            self._connections.report()
        return bool(await super().on_tick(counter))

    def _close_idle(self, now: float) -> None:
        """Closes connections that send no request, or do not read the end of their response.

        uvicorn keeps them open indefinitely while a request head is incomplete or the end of a response is unread.
        """
        limit = self._registry.settings.head_seconds
        previous, self._idle = self._idle, {}
        for connection in list(self.server_state.connections):
            request = getattr(connection, "cycle", None)
            if not (request is None or request.response_complete or connection.transport.is_closing()):
                continue
            last_request, since = previous.get(connection, (request, now))
            since = since if last_request is request else now
            self._idle[connection] = (request, since)
            if now - since > 2 * limit:
                connection.transport.abort()
            elif now - since > limit:
                connection.transport.close()

    async def _drain(self) -> None:
        await self._registry.wait_until_drained()
        self.should_exit = True
