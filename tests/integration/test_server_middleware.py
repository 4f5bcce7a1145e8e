"""Nothing bypasses the middleware: keys, Host, heads and bodies, what is logged, and the headers of every response."""

import json
import logging
import re
import time
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from typing import Any

import pytest
from fastapi.routing import iter_route_contexts
from prometheus_client.parser import text_string_to_metric_families
from serving import Address, Serving, read_all, read_until, serving, wait_until
from starlette.routing import Route

from convmodel import ConversationModel
from convmodel.errors import ConfigError
from convmodel.server.app import create_app
from convmodel.server.middleware import listed_hosts
from convmodel.server.serving.model_registry import ModelRegistry
from convmodel.server.settings import ServerSettings

pytestmark = pytest.mark.loopback

KEY, OTHER_KEY = "a-key.of~mine", "another_key"
PUBLIC = {"/", "/health", "/ready", "/favicon.ico", "/static/{name}"}
ALWAYS = {
    "x-content-type-options": "nosniff",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
}


@pytest.fixture(scope="module")
def locked(served_models: dict[str, ConversationModel]) -> Iterator[Serving]:
    with serving(served_models, api_keys=(KEY, OTHER_KEY), body_seconds=0.3, head_seconds=1.0) as served:
        served.key = None
        yield served


def routes() -> list[tuple[str, str]]:
    """Each path with each of its methods, as the application has them."""
    app: Any = create_app(ModelRegistry(dict, ServerSettings())).app
    plain = [(route.path, method) for route in app.routes if isinstance(route, Route) for method in route.methods or ()]
    included = [(each.path, method) for each in iter_route_contexts(app.routes) for method in each.methods or ()]
    return sorted({*plain, *included})


ROUTES = routes()


def test_all_routes_are_found() -> None:
    assert {path for path, _ in ROUTES} == PUBLIC | {
        "/openapi.json",
        "/metrics",
        "/tokenize",
        "/feedback",
        "/votes",
        "/improve",
        "/improve/use",
        "/train/jobs",
        "/train/jobs/{id}",
        "/train/preparations",
        "/train/preparations/{id}",
        "/v1/files",
        "/v1/files/{id}",
        "/v1/files/{id}/content",
        "/v1/fine_tuning/jobs",
        "/v1/fine_tuning/jobs/{id}",
        "/v1/fine_tuning/jobs/{id}/cancel",
        "/v1/fine_tuning/jobs/{id}/checkpoints",
        "/v1/fine_tuning/jobs/{id}/events",
        "/v1/fine_tuning/jobs/{id}/pause",
        "/v1/fine_tuning/jobs/{id}/resume",
        "/v1/models",
        "/v1/models/{id:path}",
        "/v1/chat/completions",
        "/v1/completions",
        "/v1/responses",
    }


@pytest.mark.parametrize(("path", "method"), ROUTES)
def test_every_route_needs_a_key_but_a_short_list(locked: Serving, path: str, method: str) -> None:
    place = re.sub(r"{.*}", "tiny", path).replace("/static/tiny", "/static/index.html")
    body = {"Content-Type": "application/json"}
    if path in PUBLIC:
        assert locked.ask(method, place).status in (200, 404)  # no icon is served without the page
        return
    wrong = (
        "",
        "wrong",
        KEY,
        f"Basic {KEY}",
        "Bearer",
        f"Bearer {KEY}x",
        f"Bearer x{KEY}",
        f"Bearer {KEY} {OTHER_KEY}",
    )
    for given in wrong:
        answer = locked.ask(method, place, b"{}", body | {"Authorization": given})
        assert answer.status == 401
        if method != "HEAD":
            assert (answer.error["type"], answer.error["code"]) == ("authentication_error", "invalid_api_key")
        assert answer.headers["www-authenticate"] == "Bearer"
    for given in (f"Bearer {KEY}", f"bearer {OTHER_KEY}"):
        assert locked.ask(method, place, b"{}", body | {"Authorization": given}).status != 401


ODD_PATHS = """
/static/../v1/models /static/%2e%2e/v1/models /static//v1/models //v1/models /v1/models?/health /V1/MODELS
/health/../v1/models /nothing /static /%2Fstatic/x /metrics/ /static/..%2f..%2fapp.py
"""


@pytest.mark.parametrize("path", ODD_PATHS.split())
def test_no_spelling_of_a_path_bypasses_the_middleware(locked: Serving, path: str) -> None:
    answer = locked.get(path)
    assert answer.status in (401, 404)
    assert answer.error["message"]


def test_a_key_in_the_query_is_none(locked: Serving) -> None:
    assert locked.get(f"/v1/models?api_key={KEY}&key={KEY}").status == 401


def test_the_openapi_document_says_that_a_key_is_needed(locked: Serving) -> None:
    document = locked.get("/openapi.json", Authorization=f"Bearer {KEY}").json
    assert document["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    assert document["security"] == [{"key": []}]


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:80", 200),
        ("127.0.0.1:9", 200),
        ("[::1]:8000", 200),
        ("[::1]", 200),
        ("evil.example", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("127.0.0.2", 403),
        ("localhost@evil.example", 403),
        ("evil.example:localhost", 403),
        ("localhost, evil.example", 403),
        ("::1", 403),
    ],
)
def test_the_host_is_checked(server: Serving, host: str, status: int) -> None:
    for path in ("/", "/health", "/v1/models"):
        answer = server.get(path, Host=host)
        assert answer.status == status
        if status == 403:
            assert answer.error["code"] == "host"


def test_the_case_of_a_host_does_not_count(served_models: dict[str, ConversationModel]) -> None:
    with serving(served_models, hosts=("Chat.Example", "LOCALHOST")) as own:
        for host, status in (("chat.example:80", 200), ("CHAT.example", 200), ("localhost", 200), ("127.0.0.1", 403)):
            assert own.get("/health", Host=host).status == status


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        ("*", r"hosts is \*, .* without a key: give the names .*, or set CONVMODEL_API_KEY"),
        ("chat.example, *", r"hosts is \*"),
        (" , ", "hosts is empty, so that every request would be refused: give the names"),
    ],
)
def test_a_list_of_hosts_names_some_and_needs_a_key_for_all(names: str, problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        listed_hosts(names, has_key=False)
    if "*" in names:
        assert "*" in listed_hosts(names, has_key=True)


def raw(server: Address, head: str, body: bytes = b"") -> bytes:
    """Sends bytes, and returns all that comes until the server closes the connection."""
    with server.connect() as connection:
        connection.sendall(head.replace("\n", "\r\n").encode("latin-1") + body)
        return read_all(connection)


def test_no_host_and_two_hosts_are_refused(server: Serving) -> None:
    assert raw(server, "GET /health HTTP/1.0\n\n").startswith(b"HTTP/1.1 403")
    for head in ("GET /health HTTP/1.1\n\n", "GET /health HTTP/1.1\nHost: localhost\nHost: localhost\n\n"):
        found = raw(server, head)
        assert found.startswith(b"HTTP/1.1 400")
        assert json.loads(found.partition(b"\r\n\r\n")[2])["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    "head",
    [
        "nonsense\n\n",
        "GET / HTTP/1.1\nHost : localhost\n\n",
        "\x16\x03\x01\x02\n\n",
        "POST /votes HTTP/1.1\nHost: localhost\nContent-Length: -5\n\n",
        "POST /votes HTTP/1.1\nHost: localhost\nContent-Length: 5\nContent-Length: 6\n\n",
    ],
)
def test_what_is_no_http_gets_the_envelope(server: Serving, head: str) -> None:
    found = raw(server, head)
    assert found.startswith(b"HTTP/1.1 400")
    assert json.loads(found.partition(b"\r\n\r\n")[2])["error"]["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ("".join(f"X-{number}: 1\n" for number in range(90)), 200),
        ("".join(f"X-{number}: 1\n" for number in range(110)), 431),
        (f"X: {'x' * 15_000}\n", 200),
        (f"X: {'x' * 17_000}\n", 431),
        (f"X: {'x' * 200_000}\n", 431),
    ],
)
def test_heads_have_an_end(server: Serving, headers: str, status: int) -> None:
    found = raw(server, f"GET /health HTTP/1.1\nHost: localhost\nConnection: close\n{headers}\n")
    assert found.startswith(f"HTTP/1.1 {status}".encode())
    if status == 431:
        assert b"connection: close" in found.lower()
        assert json.loads(found.partition(b"\r\n\r\n")[2])["error"]["type"] == "invalid_request_error"


def test_half_sent_bodies_are_408_and_closed(locked: Serving) -> None:
    head = (
        f"POST /tokenize HTTP/1.1\nHost: localhost\nAuthorization: Bearer {KEY}\nContent-Type: application/json\n"
        "Content-Length: 100\n\n"
    )
    begin = time.monotonic()
    found = raw(locked, head, b'{"model": ')
    assert 0.25 < time.monotonic() - begin < 15  # 20 by default
    assert found.startswith(b"HTTP/1.1 408")
    assert b"connection: close" in found.lower()
    assert json.loads(found.partition(b"\r\n\r\n")[2])["error"]["param"] is None


@pytest.mark.slow
def test_half_sent_heads_and_silent_connections_are_closed(locked: Serving) -> None:
    with locked.connect() as silent, locked.connect() as half_sent:
        half_sent.sendall(b"POST /tokenize HTTP/1.1\r\nHost: loc")
        assert read_all(silent) == read_all(half_sent) == b""


def test_a_refused_body_is_not_taken_for_a_next_request(locked: Serving) -> None:
    smuggled = f"GET /v1/models HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {KEY}\r\n\r\n".encode()
    found = raw(
        locked,
        "POST /tokenize HTTP/1.1\nHost: localhost\nContent-Type: application/json\nContent-Length: 5000\n\n",
        smuggled,
    )
    assert found.startswith(b"HTTP/1.1 401")
    assert found.count(b"HTTP/1.1") == 1


@pytest.mark.parametrize("size", [1_100_000, 8_000_000])
def test_a_client_that_sends_all_before_it_reads_gets_the_refusal(server: Serving, locked: Serving, size: int) -> None:
    body = b'{"model": "tiny", "prompt": "' + b"a" * size + b'"}'
    for place, headers, status in (
        (server, {"Content-Type": "application/json"}, 413),
        (server, {"Content-Type": "text/plain"}, 415),
        (locked, {"Content-Type": "application/json"}, 401),
    ):
        for chunked in (False, True):
            parts = iter([body[:500_000], body[500_000:]])
            answer = place.ask("POST", "/v1/completions", parts if chunked else body, headers)
            assert (answer.status, answer.headers["connection"]) == (status, "close")
            assert answer.error["message"]


def test_a_refused_body_without_an_end_is_read_for_a_short_time(locked: Serving) -> None:
    head = b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\n"
    begin = time.monotonic()
    with locked.connect() as connection:
        connection.sendall(head)
        found = b""
        while part := connection.recv(65536):
            found += part
            with suppress(OSError):
                connection.sendall(b"5\r\naaaaa\r\n")
    assert found.startswith(b"HTTP/1.1 401")
    assert time.monotonic() - begin < 10


@pytest.mark.parametrize(
    ("target", "host", "status"),
    [
        ("http://localhost:80/health", "evil.example", 200),
        ("HTTP://127.0.0.1/health?x=/y", "localhost", 200),
        ("http://localhost", "localhost", 200),
        ("http://evil.example/health", "localhost", 403),
        ("http://localhost@evil.example/health", "localhost", 404),
        ("http://localhost/v1/models/http://localhost/health", "localhost", 404),
    ],
)
def test_targets_in_absolute_form(server: Serving, target: str, host: str, status: int) -> None:
    found = raw(server, f"GET {target} HTTP/1.1\nHost: {host}\nConnection: close\n\n")
    assert found.startswith(f"HTTP/1.1 {status}".encode())


def test_an_absolute_target_needs_its_key(locked: Serving) -> None:
    found = raw(locked, "GET http://localhost/v1/models HTTP/1.1\nHost: localhost\nConnection: close\n\n")
    assert found.startswith(b"HTTP/1.1 401")


def test_after_both_lengths_the_connection_closes(server: Serving) -> None:
    head = (
        "POST /tokenize HTTP/1.1\nHost: localhost\nContent-Type: application/json\nContent-Length: 5\n"
        "Transfer-Encoding: chunked\n\n2\n{}\n0\n\n"
    )
    found = raw(server, head + "GET /health HTTP/1.1\nHost: localhost\n\n")
    assert found.count(b"HTTP/1.1") == 1
    assert b"connection: close" in found.lower()


@pytest.mark.slow
def test_idle_connections_give_way_to_new_ones(
    served_models: dict[str, ConversationModel], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("convmodel.server.run.connection_limit", lambda: 8)
    with serving(served_models) as own, ExitStack() as stack:
        busy = stack.enter_context(own.begin(max_tokens=60, stream=True))
        read_until(busy, b"data: ", 2)
        idle = [stack.enter_context(own.connect()) for _ in range(30)]
        assert own.get("/health").status == 200
        assert all(read_all(connection) == b"" for connection in idle[:20])
        assert b"[DONE]" in read_all(busy)
        wait_until(lambda: "too many connections" in caplog.text)
        assert caplog.text.count("too many connections") <= 3


def test_request_ids(server: Serving) -> None:
    first, second = (server.get("/health").headers["x-request-id"] for _ in range(2))
    assert first != second
    assert server.get("/health", **{"X-Request-Id": "mine-1.2_3"}).headers["x-request-id"] == "mine-1.2_3"
    for bad in ("x" * 65, "a b", "a<script>", "ä"):
        assert re.fullmatch("[0-9a-f]{32}", server.get("/health", **{"X-Request-Id": bad}).headers["x-request-id"])
    assert server.get("/nothing", **{"X-Request-Id": "lost"}).headers["x-request-id"] == "lost"


def test_every_answer_says_what_browsers_must_not_do(server: Serving, locked: Serving) -> None:
    evil = {"Origin": "https://evil.example", "Access-Control-Request-Method": "POST"}
    answers = [
        server.get("/", **evil),
        server.get("/v1/models", **evil),
        server.chat(max_tokens=1),
        server.chat(max_tokens=1, stream=True),
        server.ask("OPTIONS", "/v1/chat/completions", headers=evil),
        server.get("/nothing", **evil),
        locked.get("/v1/models", **evil),
        server.get("/", Host="evil.example"),
    ]
    assert [answer.status for answer in answers] == [200, 200, 200, 200, 405, 404, 401, 403]
    for answer in answers:
        assert answer.headers.items() >= ALWAYS.items()
        assert not [name for name in answer.headers if name.startswith("access-control")]
        assert "server" not in answer.headers
    policy = answers[0].headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy


def test_logs_hold_nothing_that_anybody_said(locked: Serving, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    secret, mine = "Grandmother's-secret", {"X-Request-Id": "mine"}
    key = mine | {"Authorization": f"Bearer {KEY}"}
    said = [{"role": "user", "content": secret, "name": secret}]

    def ask(path: str, **body: Any) -> int:
        return locked.ask("POST", path, body, key).status

    assert ask("/v1/chat/completions", model="tiny", messages=said, max_tokens=2, stop=secret) == 200
    assert ask("/v1/chat/completions", model="tiny", messages=said, max_tokens=2, stream=True) == 200
    assert ask("/v1/completions", model="tiny", prompt=secret, max_tokens=2) == 200
    assert ask("/v1/completions", model="tiny", prompt=secret * 1000, max_tokens=2) == 400
    assert ask("/tokenize", model="tiny", messages=said) == 200
    assert ask("/v1/chat/completions", model=secret, messages=said) == 404
    assert ask("/v1/chat/completions", model="tiny", messages=said, **{secret: secret}) == 400
    assert ask("/feedback", model="tiny", messages=said * 2, rating="up") == 404
    assert locked.get(f"/v1/models/{secret}", **key).status == 404
    assert locked.get(f"/{secret}?{secret}", **key, Cookie=secret).status == 404
    assert locked.get("/v1/models", **mine | {"Authorization": f"Bearer {secret}"}).status == 401

    def told() -> list[dict[str, Any]]:
        found = [record.__dict__.get("fields", {}) for record in caplog.records]
        return [each for each in found if each.get("request") == "mine"]

    # The log of uvicorn's that pytest listens to is switched off.
    wait_until(lambda: len(told()) == 11)
    assert sorted(each["status"] for each in told()) == [200] * 4 + [400] * 2 + [401] + [404] * 4
    assert {each["route"] for each in told()} == {
        "", "/v1/chat/completions", "/v1/completions", "/tokenize", "/feedback", "/v1/models/{id:path}"
    }  # fmt: skip
    logged = str([record.__dict__ for record in caplog.records if record.name != "uvicorn.access"])
    assert "Grandmother" not in logged
    assert KEY not in logged


def samples(server: Serving) -> dict[tuple[str, ...], float]:
    answer = server.get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain; version=")
    text = answer.body.decode()
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_metrics_move_and_have_few_labels(server: Serving) -> None:
    assert server.chat(max_tokens=1).status == 200  # a model's first generation creates its histograms
    wait_until(server.is_idle)
    before = samples(server)
    assert server.chat(max_tokens=3, temperature=0, n=1).json["usage"]["completion_tokens"] == 3
    for number in range(20):
        server.get(f"/unknown-{number}")
        server.ask(f"M{number}", "/health")
        server.chat(model=f"unknown-{number}")
    after = samples(server)

    def grown(*name: str) -> float:
        return after.get(name, 0) - before.get(name, 0)

    assert grown("convmodel_http_requests_total", "/v1/chat/completions", "200") == 1
    assert grown("convmodel_http_requests_total", "/v1/chat/completions", "404") == 20
    assert grown("convmodel_http_requests_total", "", "404") == 20
    assert grown("convmodel_generations_total", "tiny", "done") == 1
    assert grown("convmodel_tokens_total", "response", "tiny") == 3
    assert grown("convmodel_tokens_total", "prompt", "tiny") >= 3
    assert grown("convmodel_first_token_seconds_count", "tiny") == 1
    assert after["convmodel_running_requests", "tiny"] == 0
    assert len(after) - len(before) < 12
    assert "unknown" not in str(after)
