"""The server as a program: it listens, and ends well.

Owns: what a signal does: no more requests are taken, those in work are answered, then it ends.
"""

import asyncio
import json
import logging
import signal
import socket
import sys
import time
from types import FrameType
from typing import Any

import h11
import uvicorn
from uvicorn.protocols.http.h11_impl import H11Protocol

from convmodel.errors import ConfigError
from convmodel.server.app import create_app
from convmodel.server.errors import ApiError
from convmodel.server.serving.model_registry import Service

logger = logging.getLogger(__name__)


def listen(host: str, port: int) -> socket.socket:
    """Opens the address that a server is to listen at.

    Raises:
        ConfigError: If it is taken, or none of this machine's.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol must be said: asyncio switches Nagle's algorithm off only where it sees it, and with it each response
    # whose head and body are written one after the other waits 40 ms for an acknowledgement.
    opened = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        opened.bind((host, port))
    except OSError as error:
        opened.close()
        raise ConfigError(f"cannot listen at {host}:{port}: {error.strerror}; give another --port or --host") from error
    return opened


def run(service: Service, opened: socket.socket) -> None:
    """Serves until a signal comes, and then until all requests in work are answered.

    Raises:
        Exception: What went wrong when the models were loaded.
    """
    asyncio.run(make_server(service).serve([opened]))
    if service.error is not None:
        raise service.error


def make_server(service: Service) -> uvicorn.Server:
    """Makes a server of a service, which ends well when its `handle_exit` is called."""
    config = uvicorn.Config(
        create_app(service),
        http=_Protocol,
        log_config=None,
        access_log=False,  # the gate writes one without anybody's text
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=round(service.settings.head_seconds),
        timeout_graceful_shutdown=5,
        h11_max_incomplete_event_size=32 * 2**10,
        ws="none",
    )
    return _Server(config, service)


class _Protocol(H11Protocol):
    """HTTP, whose errors have the form of all others."""

    def send_400_response(self, msg: str) -> None:
        """Answers what is no HTTP, or has a head that is too long, and closes the connection."""
        too_long = getattr(sys.exception(), "error_status_hint", 400) == 431
        error = ApiError(431, "the headers are too long") if too_long else ApiError(400, "this is no request of HTTP")
        body = json.dumps(error.envelope).encode()
        told = {"Content-Type": "application/json", "Content-Length": str(len(body)), "Connection": "close"}
        if self.conn.our_state in (h11.IDLE, h11.SEND_RESPONSE):  # else an answer is on its way already
            for event in (
                h11.Response(status_code=error.status, headers=[*told.items()]),
                h11.Data(data=body),
                h11.EndOfMessage(),
            ):
                self.transport.write(self.conn.send(event) or b"")
        self.transport.close()


_TICKS = 10  # of uvicorn, a second


class _Server(uvicorn.Server):
    """A server that answers what it has taken before it ends."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._asked = False
        self._silent: dict[Any, tuple[Any, float]] = {}

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begins to end; asked a second time, ends at once."""
        if self._asked:
            self.should_exit = self.force_exit = True
            return
        self._asked = True
        self._service.drain()
        logger.info("no more requests are taken; %s again ends those in work", signal.Signals(sig).name)

    async def on_tick(self, counter: int) -> bool:
        """Called ten times a second: looks at whether it is time to end."""
        if self._service.state == "failed":
            self.should_exit = True
        if self._asked and self._draining is None:
            self._draining = asyncio.ensure_future(self._drain())
        if counter % _TICKS == 0:
            self._close_silent(time.monotonic())
        return bool(await super().on_tick(counter))

    def _close_silent(self, now: float) -> None:
        """Closes connections that bring no request, or do not take the end of what they were sent.

        uvicorn leaves them open, as long as it takes, while a head is half sent or a last byte unread.
        """
        limit = self._service.settings.head_seconds
        before, self._silent = self._silent, {}
        for connection in list(self.server_state.connections):
            newest = getattr(connection, "cycle", None)
            if not (newest is None or newest.response_complete or connection.transport.is_closing()):
                continue
            known, since = before.get(connection, (newest, now))
            since = since if known is newest else now
            self._silent[connection] = (newest, since)
            if now - since > 2 * limit:
                connection.transport.abort()
            elif now - since > limit:
                connection.transport.close()

    _draining: "asyncio.Future[None] | None" = None

    async def _drain(self) -> None:
        await self._service.drained()
        self.should_exit = True
