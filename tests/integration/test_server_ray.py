"""Two replicas behind Ray Serve's proxy: streams, conversations that stay with their replica, keys."""

import json
import os
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

ray = pytest.importorskip("ray", reason="Ray is not installed, which the extra ray brings")

pytestmark = [
    pytest.mark.loopback,
    pytest.mark.slow,
    pytest.mark.filterwarnings("default"),  # Ray's own
]

PORT = 18765


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    from ray import serve

    from convmodel.server.ray_app import RayArguments, build

    ray.init(num_cpus=2, object_store_memory=100 * 2**20, include_dashboard=False, configure_logging=False)
    try:
        serve.start(http_options={"host": "127.0.0.1", "port": PORT})
        serve.run(build(RayArguments(model="builtin:chitchat", min_replicas=2, max_replicas=2, cpus=0.5)))
        yield f"http://127.0.0.1:{PORT}"
    finally:
        serve.shutdown()
        ray.shutdown()


def ask(address: str, path: str, body: Any = None, **headers: str) -> tuple[dict[str, str], bytes]:
    told = {"Content-Type": "application/json"} | {name.replace("_", "-"): value for name, value in headers.items()}
    content = None if body is None else json.dumps(body).encode()
    with urllib.request.urlopen(urllib.request.Request(address + path, content, told), timeout=60) as answer:
        return dict(answer.headers.items()), answer.read()


def chat(address: str, messages: list[dict[str, str]], session: str, **options: Any) -> Any:
    body = {"model": "model", "messages": messages, "temperature": 0, **options}
    return json.loads(ask(address, "/v1/chat/completions", body, X_Session_Id=session)[1])


def test_a_conversation_stays_with_the_replica_that_remembers_it(address: str) -> None:
    for number in range(8):
        messages = [{"role": "user", "content": f"Hello, I am number {number} and I like music"}]
        for turn in range(3):
            told = chat(address, messages, f"session-{number}")
            cached = told["usage"]["prompt_tokens_details"]["cached_tokens"]
            assert (cached > 10) == (turn > 0)
            messages.append({"role": "assistant", "content": told["choices"][0]["message"]["content"]})
            messages.append({"role": "user", "content": "And you?"})


def test_both_replicas_answer(address: str) -> None:
    sessions = [f"other-{number}" for number in range(16)]
    for session in sessions:
        chat(address, [{"role": "user", "content": "Hi"}], session)
    before = [prompt_tokens(address, session) for session in sessions]
    assert min(before) > 0
    # Both may have counted the same, but only one counts this.
    chat(address, [{"role": "user", "content": "Hi"}], sessions[0])
    after = [prompt_tokens(address, session) for session in sessions]
    assert {new > old for new, old in zip(after, before, strict=True)} == {True, False}


def prompt_tokens(address: str, session: str) -> float:
    text = ask(address, "/metrics", X_Session_Id=session)[1].decode()
    lines = (line for line in text.splitlines() if line.startswith('convmodel_tokens_total{kind="prompt"'))
    return float(next(lines).split()[-1])


def test_streams_pass_whole(address: str) -> None:
    messages = [{"role": "user", "content": "Hello"}]
    body = {"model": "model", "messages": messages, "temperature": 0, "stream": True}
    headers, events = ask(address, "/v1/chat/completions", body, X_Session_Id="s")
    assert headers["content-type"].startswith("text/event-stream")
    data = [line[6:] for line in events.decode().splitlines() if line.startswith("data: ")]
    assert data[-1] == "[DONE]"
    text = "".join(json.loads(each)["choices"][0]["delta"].get("content", "") for each in data[:-1])
    assert text == chat(address, messages, "s")["choices"][0]["message"]["content"]


def test_the_page_and_the_middleware_are_there(address: str) -> None:
    headers, page = ask(address, "/")
    assert b"<title>convmodel</title>" in page
    assert "default-src 'none'" in headers["content-security-policy"]
    with pytest.raises(urllib.error.HTTPError) as refused:
        ask(address, "/v1/models", Host="evil.example")
    assert refused.value.code == 403


def test_keys_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    from convmodel.server import ray_app

    seen = []
    monkeypatch.setattr(ray_app, "ServerSettings", lambda **given: seen.append(given) or _Settings())
    monkeypatch.setitem(os.environ, ray_app.KEY_VARIABLE, "secret")
    ray_app.build(ray_app.RayArguments(model="m", cache_memory=3))
    assert seen[0]["api_keys"] == ("secret",)
    assert seen[0]["cache_bytes"] == 3 * 2**20


def test_any_host_is_allowed_with_a_key_only(monkeypatch: pytest.MonkeyPatch) -> None:
    from convmodel.errors import ConfigError
    from convmodel.server import ray_app

    monkeypatch.delenv(ray_app.KEY_VARIABLE, raising=False)
    with pytest.raises(ConfigError, match=r"hosts is \*"):
        ray_app.build(ray_app.RayArguments(model="m", hosts="*"))
    monkeypatch.setenv(ray_app.KEY_VARIABLE, "secret")
    ray_app.build(ray_app.RayArguments(model="m", hosts="*"))


def test_the_example_is_a_configuration_that_the_application_takes() -> None:
    from ray.serve.schema import ServeDeploySchema

    from convmodel.server import ray_app

    told = yaml.safe_load(Path("examples/ray-serve.yaml").read_text(encoding="utf-8"))
    (application,) = ServeDeploySchema.model_validate(told).applications
    assert application.import_path == f"{ray_app.__name__}:{ray_app.build.__name__}"
    arguments = ray_app.RayArguments(**application.args)
    assert (arguments.model, arguments.min_replicas) == ("builtin:chitchat", 2)


class _Settings:
    max_queue = 64
