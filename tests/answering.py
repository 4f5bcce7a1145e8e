"""A server with the parts of OpenAI's API that clients ask, which does what a test wants: answer, fail, hang, break.

Owns: the server, and what it was asked. What it answers is a function of the test.
"""

import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Reply = tuple[int, Any, dict[str, str]]
"""A status, a body (an object to encode, bytes, or None to close the connection without a word), and headers."""


def said(text: str | None, reason: str = "stop", **message: Any) -> Reply:
    """A response with a text."""
    choice = {"index": 0, "message": {"role": "assistant", "content": text} | message, "finish_reason": reason}
    return 200, {"choices": [choice], "usage": {"prompt_tokens": 3, "completion_tokens": 2}}, {}


def failed(status: int, message: str = "it failed", code: str | None = None, **headers: str) -> Reply:
    """An error in OpenAI's form; `retry_after` becomes a header."""
    named = {name.replace("_", "-").title(): value for name, value in headers.items()}
    return status, {"error": {"message": message, "code": code}}, named


BROKEN: Reply = (200, None, {})
"""A connection that is closed before the response."""


@dataclass
class Answering:
    """A running server.

    Attributes:
        url: Its address.
        reply: Called with the body of a request and the number of earlier ones with the same messages.
        requests: The bodies of all requests for responses, as they came.
        headers: The headers of all requests, with names in lower case, and the path of those for responses.
        models: What `/models` lists, by name or whole; None for a server that has no such path.
        most: The largest number of requests that were open at the same time.
    """

    url: str = ""
    reply: Callable[[dict[str, Any], int], Reply] = lambda body, earlier: said(f"Re: {last(body)}")
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    models: list[str | dict[str, Any]] | None = field(default_factory=lambda: ["m"])
    most: int = 0
    open: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def texts(self) -> list[str]:
        """The last turn of each request, as they came."""
        return [last(body) for body in self.requests]


def last(body: Mapping[str, Any]) -> str:
    """The text of the last message of a request."""
    text: str = body["messages"][-1]["content"]
    return text


@contextmanager
def answering(reply: Callable[[dict[str, Any], int], Reply] | None = None) -> Iterator[Answering]:
    """Runs a server until the end of the block; by default it repeats the last turn."""
    state = Answering() if reply is None else Answering(reply=reply)

    def named(headers: Mapping[str, str]) -> dict[str, str]:
        return {name.lower(): value for name, value in headers.items()}

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        disable_nagle_algorithm = True  # or each body waits 40 ms for an acknowledgement of its head

        def do_GET(self) -> None:
            state.headers.append(named(self.headers))
            if state.models is None:
                self.send(failed(404, "there is nothing"))
            else:
                entries = [{"id": each} if isinstance(each, str) else each for each in state.models]
                self.send((200, {"data": entries}, {}))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with state.lock:
                earlier = sum(body["messages"] == other["messages"] for other in state.requests)
                state.requests.append(body)
                state.headers.append(named(self.headers) | {"path": self.path})
                state.open += 1
                state.most = max(state.most, state.open)
            try:
                answer = state.reply(body, earlier)
            finally:
                with state.lock:
                    state.open -= 1
            self.send(answer)

        def send(self, answer: Reply) -> None:
            status, body, headers = answer
            if body is None:
                self.close_connection = True
                self.connection.close()
                return
            content = body if isinstance(body, bytes) else json.dumps(body).encode()
            self.send_response(status)
            for name, value in {
                "Content-Type": "application/json",
                "Content-Length": str(len(content)),
                **headers,
            }.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: object) -> None:
            pass

    class Server(ThreadingHTTPServer):
        def handle_error(self, *_: object) -> None:
            """Says nothing of clients that went away."""

    with Server(("127.0.0.1", 0), Handler) as server:
        state.url = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield state
        finally:
            server.shutdown()
