"""Whatever is wrong with a request, the server says so in OpenAI's form, and goes on."""

import json
import logging
from typing import Any

import pytest
from serving import HELLO, Serving, read_all, serving, serving_loaded, wait_until

from convmodel import ConversationModel
from convmodel.server.settings import MAX_BODY

pytestmark = pytest.mark.loopback

POSTS = ("/v1/chat/completions", "/v1/completions", "/v1/responses", "/tokenize", "/feedback", "/votes")
GOOD: dict[str, Any] = {"model": "tiny", "messages": HELLO, "max_completion_tokens": 2}


@pytest.fixture(autouse=True)
def _still_answers(server: Serving) -> Any:
    yield
    assert server.chat(max_completion_tokens=1).status == 200
    wait_until(server.is_idle)


def nested(depth: int) -> bytes:
    return b'{"model": "tiny", "messages": ' + b"[" * depth + b"]" * depth + b"}"


MALFORMED: dict[str, bytes] = {
    "empty": b"",
    "null": b"null",
    "list": b"[]",
    "text": b'"hello"',
    "number": b"17",
    "no JSON": b"{'model': 1}",
    "cut off": b'{"model": "tiny", "messages": [{"role"',
    "two values": b"{} {}",
    "not UTF-8": b'{"model": "\xff\xfe"}',
    "null bytes": b"\x00" * 100,
    "deep lists": nested(100_000),
    "deep objects": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "a huge int": b'{"model": "tiny", "seed": ' + b"9" * 5000 + b"}",
}


@pytest.mark.parametrize("path", POSTS)
@pytest.mark.parametrize("name", MALFORMED)
def test_what_is_no_object_of_json_is_400(server: Serving, path: str, name: str) -> None:
    answer = server.ask("POST", path, MALFORMED[name], {"Content-Type": "application/json"})
    assert answer.status == 400
    assert answer.error["type"] == "invalid_request_error"


@pytest.mark.parametrize(
    ("change", "param"),
    [
        ({"temperature": float("nan")}, "temperature"),
        ({"temperature": float("inf")}, "temperature"),
        ({"presence_penalty": float("-inf")}, "presence_penalty"),
        ({"logit_bias": {"5": float("nan")}}, "logit_bias"),
        ({"seed": 10**400}, "seed"),
        ({"seed": 2**63}, "seed"),
        ({"seed": True}, "seed"),
        ({"seed": "1"}, "seed"),
        ({"seed": 1.5}, "seed"),
        ({"n": 1e300}, "n"),
        ({"max_completion_tokens": 10**30}, "max_completion_tokens"),
        ({"temperature": "1"}, "temperature"),
        ({"stream": 1}, "stream"),
        ({"stop": [""]}, "stop"),
        ({"stop": {"a": 1}}, "stop"),
        ({"messages": {}}, "messages"),
        ({"messages": []}, "messages"),
        ({"messages": "Hello"}, "messages"),
        ({"messages": [{"role": "user"}]}, "messages.0.content"),
        ({"messages": [{"content": "Hello"}]}, "messages.0.role"),
        ({"messages": [{"role": "wizard", "content": "Hello"}]}, "messages.0.role"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": "Hi", "weight": 3}]}, "messages.0.weight"),
        ({"messages": [{"role": "user", "content": ""}]}, "messages"),
        ({"messages": [{"role": "user", "content": " \n\t"}]}, "messages"),
        ({"messages": [{"role": "user", "content": "Hi", "name": " "}]}, "messages.0.name"),
        ({"logit_bias": {"-1": 1}}, "logit_bias"),
        ({"logit_bias": {"a": 1}}, "logit_bias"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options"),
        ({"logit_bias": {"50300": 1}}, "logit_bias"),
        ({"max_tokens": 5, "max_completion_tokens": 6}, "max_tokens"),
        ({"max_completion_tokens": 126}, "max_completion_tokens"),
        ({"max_completion_tokens": None, "max_tokens": 126}, "max_tokens"),
        ({"model": 5}, "model"),
    ],
)
def test_the_error_names_the_parameter(server: Serving, change: dict[str, Any], param: str | None) -> None:
    answer = server.post("/v1/chat/completions", **(GOOD | change))
    assert answer.status == 400
    assert (answer.error["param"] or "").startswith(param or "")
    assert bool(answer.error["param"]) == bool(param)


UNKNOWN = """
functions audio prediction reasoning_effort verbosity web_search_options repetition_penalty
chat_template trust_remote_code generation_config stop_token_ids best_of ignore_eos use_beam_search __class__ do_sample
num_beams logits_processor rerank
"""


@pytest.mark.parametrize("name", UNKNOWN.split())
def test_what_is_not_honoured_is_refused_by_name(server: Serving, name: str) -> None:
    answer = server.post("/v1/chat/completions", **GOOD, **{name: {"a": "b"}})
    assert answer.status == 400
    assert (answer.error["param"], answer.error["code"]) == (name, "unsupported_parameter")
    assert name in answer.error["message"]


def test_what_asks_for_nothing_is_no_error(server: Serving) -> None:
    nothing = {"tools": [], "tool_choice": "none", "response_format": {"type": "text"}, "store": False, "user": "me",
               "logit_bias": None, "stop": None, "service_tier": "auto", "metadata": {"a": "b"}}  # fmt: skip
    assert server.post("/v1/chat/completions", **GOOD, **nothing).status == 200
    assert server.post("/v1/chat/completions", **GOOD, store=0).status == 400


NUMBERS = [
    ("temperature", 0, 2, 0.001),
    ("top_p", 0, 1, 0.001),
    ("min_p", 0, 1, 0.001),
    ("top_k", 0, 2**20, 1),
    ("presence_penalty", -2, 2, 0.001),
    ("frequency_penalty", -2, 2, 0.001),
    ("seed", 0, 2**63 - 9, 1),
    ("n", 1, 8, 1),
    ("max_completion_tokens", 1, 125, 1),
    ("top_logprobs", 0, 20, 1),
]


@pytest.mark.parametrize(("name", "low", "high", "beyond"), NUMBERS)
def test_each_number_has_two_bounds(server: Serving, name: str, low: float, high: float, beyond: float) -> None:
    def status(value: float) -> int:
        return server.post("/v1/chat/completions", **(GOOD | {"logprobs": True, "stop": "e", name: value})).status

    assert [status(low), status(high)] == [200, 200]
    assert [status(low - beyond), status(high + beyond)] == [400, 400]


@pytest.mark.parametrize(
    ("most", "more"),
    [
        ({"stop": ["x" * 256] * 16}, {"stop": ["x"] * 17}),
        ({"stop": "x" * 256}, {"stop": "x" * 257}),
        ({"logit_bias": {str(i): 1 for i in range(1024)}}, {"logit_bias": {str(i): 1 for i in range(1025)}}),
        ({"logit_bias": {"0": 100, "1": -100}}, {"logit_bias": {"0": 100.1}}),
        ({"logit_bias": {"50256": 1}}, {"logit_bias": {"50300": 1}}),
        ({"reply_as": "x" * 64}, {"reply_as": "x" * 65}),
        ({"messages": HELLO * 4096}, {"messages": HELLO * 4097}),
    ],
)
def test_each_list_and_text_has_an_end(server: Serving, most: dict[str, Any], more: dict[str, Any]) -> None:
    assert server.post("/v1/chat/completions", **(GOOD | most)).status == 200
    assert server.post("/v1/chat/completions", **(GOOD | more)).status == 400


@pytest.mark.parametrize("text", ["\ud800", "a\udfffb"])
@pytest.mark.parametrize("place", ["content", "name", "stop", "model", "user", "\ud800"])
def test_half_a_pair_of_utf16_is_no_text(server: Serving, text: str, place: str) -> None:
    asked: dict[str, Any] = GOOD | {"messages": [{"role": "user", "content": "Hi", "name": "Ann"}]}
    if place in ("content", "name"):
        asked["messages"][0][place] = text
    else:
        asked[place] = text
    answer = server.ask(
        "POST", "/v1/chat/completions", json.dumps(asked).encode(), {"Content-Type": "application/json"}
    )
    assert answer.status == 400
    assert answer.error["type"] == "invalid_request_error"


def test_the_last_of_two_equal_keys_counts(server: Serving) -> None:
    body = b'{"model": "gpt-5", "messages": [{"role": "user", "content": "Hi"}], "model": "tiny", "max_tokens": 1}'
    assert server.ask("POST", "/v1/chat/completions", body, {"Content-Type": "application/json"}).status == 200


def test_null_characters_are_text(server: Serving) -> None:
    assert server.chat([{"role": "user", "content": "a\x00b"}], max_tokens=2).status == 200


@pytest.mark.parametrize(
    "kind",
    ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", "", "application/jsonp"],
)
def test_other_kinds_of_content_are_415(server: Serving, kind: str) -> None:
    for path in POSTS:
        answer = server.ask("POST", path, json.dumps(GOOD).encode(), {"Content-Type": kind})
        assert (answer.status, answer.error["type"]) == (415, "invalid_request_error")
    for good in ("application/json; charset=utf-8", "Application/JSON"):
        answer = server.ask("POST", "/v1/chat/completions", json.dumps(GOOD).encode(), {"Content-Type": good})
        assert answer.status == 200


def test_unknown_paths_and_methods(server: Serving) -> None:
    for path in ("/nothing", "/v1", "/v1/embeddings", "/v1/chat/completions/", "/docs", "/redoc", "/health/", "/%00"):
        assert (server.get(path).status, server.get(path).error["param"]) == (404, None)
    for method, path in (("GET", "/v1/completions"), ("DELETE", "/v1/models"), ("PUT", "/votes"), ("PATCH", "/")):
        answer = server.ask(method, path, b"{}", {"Content-Type": "application/json"})
        assert answer.status == 405
        assert answer.headers["allow"]
        assert method in answer.error["message"]


@pytest.mark.slow
@pytest.mark.parametrize(("size", "status"), [(MAX_BODY, 200), (MAX_BODY + 1, 413)])
@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_has_an_end(server: Serving, size: int, status: int, chunked: bool) -> None:
    body = json.dumps(GOOD | {"model": "tiny", "messages": HELLO}).encode()
    body += b" " * (size - len(body))
    told = {"Content-Type": "application/json"}
    with server.connect() as connection:
        head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: {told['Content-Type']}\r\n"
        length = "Transfer-Encoding: chunked" if chunked else f"Content-Length: {size}"
        connection.sendall(f"{head}{length}\r\nConnection: close\r\n\r\n".encode())
        try:
            connection.sendall(b"%x\r\n%b\r\n0\r\n\r\n" % (size, body) if chunked else body)
        except OSError:
            assert status == 413
        found = read_all(connection)
    assert found.startswith(f"HTTP/1.1 {status} ".encode())


def test_while_it_loads_and_after_that_failed(served_models: dict[str, ConversationModel]) -> None:
    import threading

    go_on = threading.Event()

    def load() -> dict[str, ConversationModel]:
        assert go_on.wait(30)
        return served_models

    with serving_loaded(load) as loading:
        ready = loading.get("/ready")
        assert (ready.status, ready.json) == (503, {"status": "loading"})
        assert loading.get("/health").status == 200
        assert loading.get("/").status == 200
        for answer in (loading.get("/v1/models"), loading.chat(), loading.get("/v1/models/tiny")):
            assert (answer.status, answer.error["code"]) == (503, "loading")
            assert int(answer.headers["retry-after"]) >= 1
        go_on.set()
        wait_until(lambda: loading.get("/ready").status == 200)
        assert loading.chat(max_tokens=1).status == 200


def test_a_failure_is_500_tells_nothing_and_ends_no_other(
    served_models: dict[str, ConversationModel], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with serving(served_models) as own:
        handle = own.model().hf_model.register_forward_hook(_fail)
        try:
            whole = own.chat([{"role": "user", "content": "a SECRET of mine"}], max_tokens=2)
            stream = own.chat(stream=True)
        finally:
            handle.remove()
        assert (whole.status, whole.error["type"]) == (500, "server_error")
        assert "password" not in whole.body.decode()
        assert stream.status == 200
        assert stream.events[-1]["error"]["type"] == "server_error"
        assert "password" not in stream.body.decode()
        assert "[DONE]" not in stream.events
        assert own.chat(max_tokens=2).status == 200
        wait_until(own.is_idle)
    assert any(record.exc_info for record in caplog.records if record.levelno == logging.ERROR)
    assert "SECRET" not in caplog.text


def _fail(*_: Any) -> None:
    raise RuntimeError("/etc/password")
