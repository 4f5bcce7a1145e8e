"""Two servers behind nginx, as `examples/nginx.conf` has it."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripted import halted, scripted
from serving import Address, Serving, free_port, read_until, serving, wait_until

from convmodel import ConversationModel

NGINX = shutil.which("nginx", path=os.environ.get("PATH", "") + ":/usr/sbin")
EXAMPLE = Path(__file__).parents[2] / "examples/nginx.conf"

pytestmark = [
    pytest.mark.loopback,
    pytest.mark.skipif(NGINX is None, reason="there is no nginx here"),
]


@pytest.fixture(scope="module")
def servers(served_models: dict[str, ConversationModel]) -> Iterator[list[Serving]]:
    models = {"tiny": served_models["tiny"]}
    with serving(models) as one, serving(models) as other:
        yield [one, other]


@pytest.fixture
def proxy(started: Address) -> Address:
    """Waits here, for only tests may connect."""
    wait_until(lambda: answers(started))
    return started


@pytest.fixture(scope="module")
def started(servers: list[Serving], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Address]:
    folder, port = tmp_path_factory.mktemp("nginx"), free_port()
    text = EXAMPLE.read_text(encoding="utf-8").replace("listen 8080;", f"listen 127.0.0.1:{port};")
    for written, server in zip(("127.0.0.1:8001", "127.0.0.1:8002"), servers, strict=True):
        assert text.count(f"server {written}") == 1
        text = text.replace(written, f"127.0.0.1:{server.port}")
    paths = "".join(
        f"{kind}_temp_path {folder}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    text = text.replace("http {", "http { " + paths)
    (folder / "nginx.conf").write_text(f"daemon off; master_process off;\n{text}", encoding="utf-8")
    command = [NGINX, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    with (folder / "output").open("w") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output)  # type: ignore[arg-type]
        try:
            yield Address(port)
        finally:
            process.terminate()
            process.wait(10)


def answers(address: Address) -> bool:
    try:
        return address.get("/health").status == 200
    except OSError:
        return False


def test_a_conversation_stays_with_one_server(proxy: Address, servers: list[Serving]) -> None:
    for number in range(12):
        messages = [{"role": "user", "content": f"Hello {number}, let us talk about music"}]
        for turn in range(3):
            body = {"model": "tiny", "messages": messages, "temperature": 0, "max_completion_tokens": 4}
            told = proxy.ask("POST", "/v1/chat/completions", body, {"X-Session-Id": f"talk-{number}"}).json
            cached = told["usage"]["prompt_tokens_details"]["cached_tokens"]
            assert (cached > 8) == (turn > 0)
            messages += [
                {"role": "assistant", "content": told["choices"][0]["message"]["content"].strip() or "."},
                {"role": "user", "content": "Well"},
            ]
    assert all(len(server.engine().caches) for server in servers)


def test_tokens_pass_as_they_come(proxy: Address, servers: list[Serving]) -> None:
    with (
        scripted(servers[0].model(), "one two three four five six"),
        scripted(servers[1].model(), "one two three four five six"),
        halted(servers[0].model(), steps=2) as first,
        halted(servers[1].model(), steps=2) as second,
        proxy.begin(stream=True, temperature=0) as connection,
    ):
        got = read_until(connection, b'one"')  # while the model waits with the rest
        assert b"six" not in got
        first.set()
        second.set()
        assert b'six"' in read_until(connection, b"[DONE]")


def test_a_client_that_leaves_is_noticed_behind_it(proxy: Address, servers: list[Serving]) -> None:
    with (
        scripted(servers[0].model(), "word " * 80, seconds=0.25),
        scripted(servers[1].model(), "word " * 80, seconds=0.25),
    ):
        with proxy.begin(stream=True) as connection:
            read_until(connection, b"word")
        assert wait_until(lambda: all(server.is_idle() for server in servers)) < 10  # the whole takes 20 seconds


def test_bodies_are_bounded_and_a_server_that_stops_is_passed_over(proxy: Address, servers: list[Serving]) -> None:
    assert proxy.chat([{"role": "user", "content": "x" * 2**20}]).status == 413
    servers[0].registry.drain()
    for number in range(8):
        body = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "max_completion_tokens": 2}
        assert proxy.ask("POST", "/v1/chat/completions", body, {"X-Session-Id": str(number)}).status == 200
