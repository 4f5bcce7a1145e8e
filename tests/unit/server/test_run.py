"""The server's log: a record is one line, of JSON or for people."""

import asyncio
import io
import json
import logging
import re
import signal
import socket
import sys
from asyncio import CancelledError
from types import SimpleNamespace
from typing import Any

import pytest
import uvicorn

from convmodel.server.run import JsonFormatter, TerminalFormatter, format_logs, listen, make_server, run
from convmodel.server.settings import ServerSettings


def test_fields_and_tracebacks_are_part_of_the_object() -> None:
    try:
        raise ValueError("broken\nin two lines")
    except ValueError:
        record = logging.LogRecord("server", logging.ERROR, "", 0, "request %s failed", ("7",), sys.exc_info())
    record.fields = {"status": 500}
    line = JsonFormatter().format(record)
    assert "\n" not in line
    fields = json.loads(line)
    assert fields.items() >= {"level": "error", "message": "request 7 failed", "status": 500}.items()
    assert "ValueError: broken" in fields["traceback"]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_handlers_write_lines_on_a_terminal_and_json_elsewhere(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal, file = logging.StreamHandler(Terminal()), logging.StreamHandler(io.StringIO())
    monkeypatch.setattr(logging.getLogger(), "handlers", [terminal, file, logging.NullHandler()])
    monkeypatch.setattr(logging.getLogger(), "level", logging.INFO)
    monkeypatch.setattr(logging.getLogger("uvicorn"), "level", logging.NOTSET)
    format_logs()
    assert isinstance(terminal.formatter, TerminalFormatter)
    assert isinstance(file.formatter, JsonFormatter)
    assert logging.getLogger("uvicorn").level == logging.WARNING


@pytest.mark.parametrize(
    ("fields", "line"),
    [
        ({"method": "POST", "route": "/v1/chat/completions", "status": 200, "seconds": 1.2345},
         "POST /v1/chat/completions   200  1.2 s"),
        ({"method": "GET", "route": "/", "status": 200, "seconds": 0.0123}, "GET  /                      200   12 ms"),
        ({"method": "GET", "route": "", "status": 404, "seconds": 0.0003}, "GET  unknown path           404    0 ms"),
        ({}, "request"),
    ],
)  # fmt: skip
def test_a_line_for_people(fields: dict[str, Any], line: str) -> None:
    record = logging.LogRecord("server", logging.INFO, "", 0, "request", (), None)
    record.fields = fields
    text = TerminalFormatter().format(record)
    assert re.fullmatch(r"\r\x1b\[K\d\d:\d\d:\d\d  " + re.escape(line), text)


def test_a_traceback_is_shown_below_the_line() -> None:
    try:
        raise ValueError("broken")
    except ValueError:
        record = logging.LogRecord("server", logging.ERROR, "", 0, "request %s failed", ("7",), sys.exc_info())
    text = TerminalFormatter().format(record)
    assert "request 7 failed\nTraceback" in text
    assert text.endswith("ValueError: broken")


def test_what_a_second_signal_hides_is_logged_again_afterwards(monkeypatch: pytest.MonkeyPatch) -> None:
    log = logging.getLogger("uvicorn.error")
    registry: Any = SimpleNamespace(
        settings=ServerSettings(), error=None, state="ready", drain=lambda: None, models=(), improver=None
    )
    record = logging.LogRecord("server", logging.ERROR, "", 0, "failed", (), (CancelledError, CancelledError(), None))
    hidden: list[bool] = []

    async def serve(server: Any, sockets: list[socket.socket]) -> None:
        for _ in range(2):
            server.handle_exit(signal.SIGTERM, None)
            hidden.append(not log.filter(record))

    monkeypatch.setattr("convmodel.server.run.create_app", lambda *_: None)
    monkeypatch.setattr(uvicorn.Server, "serve", serve)
    with listen("127.0.0.1", 0) as sock:
        run(registry, sock)
    assert hidden == [False, True]
    assert log.filter(record)

    for _ in range(2):  # without `run`, as a program that embeds the server does
        asyncio.run(make_server(registry).serve([]))
    assert hidden == [False, True] * 3
    make_server(registry)
    assert log.filter(record)
