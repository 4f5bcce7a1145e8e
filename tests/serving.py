"""Real servers for tests: on a free port of this machine, in a thread or as a program of their own.

Owns: starting and ending them, and asking them without any client's help.
"""

import asyncio
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

from convmodel import ConversationModel
from convmodel.generation.engine.engine import Engine
from convmodel.server.fine_tuning.service import FineTuning
from convmodel.server.run import listen, make_server
from convmodel.server.serving.improvement import Improver
from convmodel.server.serving.model_registry import ModelRegistry
from convmodel.server.serving.scheduler import Scheduler
from convmodel.server.settings import ServerSettings

HELLO = [{"role": "user", "content": "Hello"}]
PATIENCE = 30.0
"""Seconds after which what a test waits for will not come."""


@dataclass
class Answer:
    """What a server answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def error(self) -> dict[str, Any]:
        """The error, if the body is an envelope and nothing else."""
        assert self.headers["content-type"] == "application/json"
        assert self.json.keys() == {"error"}
        error: dict[str, Any] = self.json["error"]
        assert error.keys() == {"message", "type", "param", "code"}
        assert isinstance(error["message"], str)
        assert isinstance(error["type"], str)
        return error

    @property
    def events(self) -> list[Any]:
        """What a stream's `data` lines have, the last of them as text."""
        return [line if line == "[DONE]" else json.loads(line) for line in data_lines(self.body)]


def data_lines(body: bytes) -> list[str]:
    """What the `data` lines of a stream say."""
    return [line.removeprefix("data: ") for line in body.decode().split("\n") if line.startswith("data: ")]


def raw_post(path: str, **body: Any) -> bytes:
    """The bytes of a request on a connection of its own."""
    content = json.dumps(body).encode()
    head = [f"POST {path} HTTP/1.1", "Host: localhost", "Content-Type: application/json",
            f"Content-Length: {len(content)}", "Connection: close", "", ""]  # fmt: skip
    return "\r\n".join(head).encode() + content


@dataclass
class Address:
    """Where a server listens."""

    port: int
    key: str | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def connect(self) -> socket.socket:
        """Opens a connection to write bytes to."""
        return socket.create_connection(("127.0.0.1", self.port), timeout=PATIENCE)

    def ask(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
        """Asks; a body that is no bytes, nor an iterator of them, is sent as JSON."""
        told = {"Content-Type": "application/json"} if body is not None else {}
        if self.key is not None:
            told["Authorization"] = f"Bearer {self.key}"
        told |= headers or {}
        content = body if body is None or isinstance(body, bytes | Iterator) else json.dumps(body).encode()
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, content, {name: value for name, value in told.items() if value})
            response = connection.getresponse()
            return Answer(
                response.status, {name.lower(): value for name, value in response.getheaders()}, response.read()
            )
        finally:
            connection.close()

    def begin(self, **options: Any) -> socket.socket:
        """Asks for a response to a conversation, and leaves it to the test what it does with the connection."""
        connection = self.connect()
        connection.sendall(raw_post("/v1/chat/completions", **{"model": "tiny", "messages": HELLO} | options))
        return connection

    def get(self, path: str, **headers: str) -> Answer:
        return self.ask("GET", path, headers=headers)

    def post(self, path: str, **body: Any) -> Answer:
        return self.ask("POST", path, body)

    def chat(self, messages: Sequence[Mapping[str, Any]] = HELLO, **options: Any) -> Answer:
        """Asks for a response to a conversation, of `tiny` if no other model is named."""
        return self.post("/v1/chat/completions", **{"model": "tiny", "messages": messages} | options)


@dataclass
class Serving(Address):
    """A server in a thread."""

    registry: ModelRegistry = None  # type: ignore[assignment]
    server: Any = None
    loop: Any = None

    def tasks(self) -> set[Any]:
        """What the server's loop is at, beside serving itself."""
        found: set[Any] = asyncio.all_tasks(self.loop)
        names = ("serving_loaded.<locals>.serve", "LifespanOn.main")
        return {task for task in found if task.get_coro().__qualname__ not in names}

    def scheduler(self, name: str = "tiny") -> Scheduler:
        return self.registry.get(name).scheduler

    def engine(self, name: str = "tiny") -> Engine:
        return self.scheduler(name).engine

    def model(self, name: str = "tiny") -> Any:
        """What `scripted` and `watched` take for a model: the server's engine, not that of the Python API."""
        model = self.registry.get(name).model
        return SimpleNamespace(hf_model=model.hf_model, tokenizer=model.tokenizer, engine=self.engine(name))

    def is_idle(self, name: str = "tiny") -> bool:
        scheduler = self.scheduler(name)
        return self.engine(name).load == (0, 0) and not scheduler.waiting and not scheduler.running


def read_all(connection: socket.socket) -> bytes:
    """Reads until the server closes the connection."""
    found = b""
    try:
        while part := connection.recv(65536):
            found += part
    except ConnectionResetError:
        pass
    return found


def read_until(connection: socket.socket, text: bytes, count: int = 1) -> bytes:
    """Reads until a text has come so many times."""
    found = b""
    while found.count(text) < count:
        part = connection.recv(4096)
        assert part, found
        found += part
    return found


def wait_until(is_so: Callable[[], Any], seconds: float = PATIENCE) -> float:
    """Waits for something that no event tells; returns for how long."""
    begin = time.monotonic()
    while not is_so():
        assert time.monotonic() - begin < seconds, "it has not come about"
        time.sleep(0.002)
    return time.monotonic() - begin


@contextmanager
def serving(models: Mapping[str, ConversationModel], **settings: Any) -> Iterator[Serving]:
    """Serves models in a thread until the end of the block."""
    with serving_loaded(lambda: models, **settings) as served:
        wait_until(lambda: served.registry.state == "ready")
        yield served


@contextmanager
def serving_loaded(
    load: Callable[[], Mapping[str, ConversationModel]],
    *,
    improver: Improver | None = None,
    fine_tuning: FineTuning | None = None,
    **settings: Any,
) -> Iterator[Serving]:
    """Serves what a function loads, from the moment on in which the server listens."""
    shelf = None if fine_tuning is None else fine_tuning.shelf
    registry, sock = ModelRegistry(load, ServerSettings(**settings), improver, shelf), listen("127.0.0.1", 0)
    port, server = sock.getsockname()[1], make_server(registry, fine_tuning)
    loops: list[asyncio.AbstractEventLoop] = []

    async def serve() -> None:
        loops.append(asyncio.get_running_loop())
        await server.serve([sock])

    thread = threading.Thread(target=lambda: asyncio.run(serve()))
    thread.start()
    try:
        wait_until(lambda: server.started)
        key = settings.get("api_keys", [None])[0]
        yield Serving(port, key, registry, server, loops[0])
    finally:
        server.should_exit = True
        thread.join(PATIENCE)
        work = [served.scheduler.engine.load for served in registry.models] if registry.state == "ready" else []
        assert not thread.is_alive(), (
            f"{registry.state}, {work}, {server.server_state.connections}, {asyncio.all_tasks(loops[0])}"
        )


@dataclass
class Program(Address):
    """A server as a program of its own."""

    process: Any = None
    said: Any = None

    def ready(self) -> bool:
        try:
            return self.get("/ready").status == 200
        except OSError:
            return False

    def end(self, sign: int = signal.SIGTERM) -> int:
        """Sends a signal and returns the exit code."""
        self.process.send_signal(sign)
        return int(self.process.wait(PATIENCE))

    def output(self) -> str:
        self.said.seek(0)
        return str(self.said.read())


@contextmanager
def program(
    folder: Path, *arguments: str, key: str | None = None, script: Path | None = None, **environment: str
) -> Iterator[Program]:
    """Runs `convmodel serve` until the end of the block, or a script that takes the same arguments."""
    port = free_port()
    begin = ["-m", "convmodel"] if script is None else [str(script)]
    command = [sys.executable, *begin, "serve", "--port", str(port), *arguments]
    with (folder / f"output-{port}").open("w+", encoding="utf-8") as said:
        process = subprocess.Popen(command, stdout=said, stderr=said, cwd=folder, env=os.environ | environment)
        try:
            yield Program(port, key, process, said)
        finally:
            process.kill()
            process.wait(PATIENCE)


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as found:
        return int(found.getsockname()[1])
