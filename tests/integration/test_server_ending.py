"""A server that is told to stop answers what it has taken; and the command as people run it."""

import json
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from scripted import scripted
from serving import Serving, data_lines, program, read_all, read_until, serving, serving_loaded, wait_until

from convmodel import ConversationModel

pytestmark = pytest.mark.loopback

LONG = [262] * 110


@pytest.fixture
def own(served_models: dict[str, ConversationModel], request: pytest.FixtureRequest) -> Iterator[Serving]:
    with serving({"tiny": served_models["tiny"]}, **getattr(request, "param", {})) as served:
        yield served


def stop(own: Serving) -> None:
    """What a signal does; a thread gets none."""
    own.server.handle_exit(signal.SIGTERM, None)


def has_ended(own: Serving) -> bool:
    try:
        own.connect().close()
    except OSError:
        return True
    return False


def test_streams_end_whole_and_nothing_new_is_taken(own: Serving) -> None:
    with (
        scripted(own.model(), LONG, LONG, seconds=0.005),
        own.begin(stream=True, max_tokens=100) as stream,
        own.begin(max_tokens=100) as whole,
    ):
        begun = read_until(stream, b'"content":" the"')
        wait_until(lambda: own.engine().load == (2, 0))
        stop(own)
        ready = own.get("/ready")
        assert (ready.status, ready.json) == (503, {"status": "draining"})
        assert own.get("/health").status == 200
        refused = own.chat(max_tokens=1)
        assert (refused.status, refused.error["code"]) == (503, "draining")
        assert int(refused.headers["retry-after"]) >= 1
        assert own.post("/v1/completions", model="tiny", prompt="Hi").status == 503
        lines = data_lines(begun + read_all(stream))
        answer = json.loads(read_all(whole).partition(b"\r\n\r\n")[2])
    assert lines[-1] == "[DONE]"
    assert sum('"content":" the"' in line for line in lines) == 100
    assert answer["choices"][0]["message"]["content"] == " the" * 100
    wait_until(lambda: has_ended(own))


def test_those_that_wait_are_answered_too(own: Serving) -> None:
    own.engine().max_rows = 1
    with scripted(own.model(), LONG, "Good", "Good", seconds=0.002), ThreadPoolExecutor() as pool:
        with own.begin(stream=True, max_tokens=100) as first:
            read_until(first, b'"content":" the"')
            waiting = [pool.submit(own.chat) for _ in range(2)]
            wait_until(lambda: own.scheduler().waiting == 2)
            stop(own)
            read_all(first)
        said = [each.result().json["choices"][0]["message"]["content"] for each in waiting]
    assert said == ["Good", "Good"]


@pytest.mark.parametrize("own", [{"drain_seconds": 0.1}], indirect=True)
def test_the_deadline_ends_what_goes_on(own: Serving) -> None:
    with (
        scripted(own.model(), LONG, LONG, seconds=0.02),
        own.begin(stream=True, max_tokens=100) as stream,
        own.begin(max_tokens=100) as whole,
    ):
        read_until(stream, b'"content":" the"')
        wait_until(lambda: own.engine().load == (2, 0))
        stop(own)
        assert json.loads(data_lines(read_all(stream))[-1])["error"]["code"] == "draining"
        answer = read_all(whole)
    assert answer.startswith(b"HTTP/1.1 503 ")
    assert json.loads(answer.partition(b"\r\n\r\n")[2])["error"]["code"] == "draining"
    wait_until(lambda: has_ended(own))


def test_asked_twice_it_ends_at_once(own: Serving) -> None:
    with scripted(own.model(), LONG, seconds=0.02), own.begin(stream=True, max_tokens=100) as stream:
        read_until(stream, b'"content":" the"')
        stop(own)
        stop(own)
        assert "[DONE]" not in data_lines(read_all(stream))


def test_it_may_be_stopped_while_it_loads(served_models: dict[str, ConversationModel]) -> None:
    go_on = threading.Event()
    with serving_loaded(lambda: served_models if go_on.wait(30) else {}) as loading, loading.connect() as connection:
        connection.sendall(b"GET /v1/models HTTP/1.1\r\nHost: localhost\r\n")
        stop(loading)
        connection.sendall(b"Connection: close\r\n\r\n")
        answer = read_all(connection)
        assert not answer or answer.startswith(b"HTTP/1.1 503")
        wait_until(lambda: has_ended(loading))
        go_on.set()


def test_a_server_that_has_nothing_to_do_ends_at_once(own: Serving) -> None:
    stop(own)
    assert wait_until(lambda: has_ended(own)) < 1
    assert not [thread.name for thread in threading.enumerate() if thread.name == "loading"]


def test_the_program_logs_json_without_texts_and_ends_well(tmp_path: Path) -> None:
    """Three streams of 300 tokens are in work when the signal comes."""
    secret = "Grandmother's secret"
    (tmp_path / "keys").write_text("key-of-file\n\nanother\n")
    arguments = ["builtin:chitchat", "mine=builtin:chitchat", "--api-key-file", "keys", "--api-key", "key-of-option"]
    with program(tmp_path, *arguments, key="key-of-environment", CONVMODEL_API_KEY="key-of-environment") as served:
        wait_until(served.ready, 60)
        for key in ("key-of-file", "another", "key-of-option", "key-of-environment"):
            served.key = key
            assert [model["id"] for model in served.get("/v1/models").json["data"]] == ["chitchat", "mine"]
        assert served.get("/v1/models", Authorization="Bearer key-of-nobody").status == 401
        said = [{"role": "user", "content": secret}]
        ends = {
            str(index): -100 for index in ConversationModel.from_pretrained("builtin:chitchat").tokenizer.stop_token_ids
        }
        asked = {"model": "mine", "messages": said, "stream": True, "max_completion_tokens": 300,
                 "logit_bias": ends, "stream_options": {"include_usage": True}}  # fmt: skip
        with ThreadPoolExecutor() as pool:
            streams = [pool.submit(served.post, "/v1/chat/completions", **asked) for _ in range(3)]
            wait_until(lambda: b'convmodel_running_requests{model="mine"} 3.0' in served.get("/metrics").body)
            assert served.end(signal.SIGTERM) == 0
        for stream in streams:
            assert stream.result().events[-2]["usage"]["completion_tokens"] == 300
            assert stream.result().events[-1] == "[DONE]"
        lines = served.output().splitlines()
    assert secret not in "".join(lines)
    assert "key-of" not in "".join(lines)
    logged = [json.loads(line) for line in lines if line.startswith("{")]
    assert "Serving chitchat, mine; Ctrl+C ends it." in "".join(lines)
    asked_for = [each for each in logged if each["message"] == "request"]
    assert {each["status"] for each in asked_for} >= {200, 401}
    assert all(each.keys() >= {"at", "level", "request", "method", "route", "status", "seconds"} for each in asked_for)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "0.0.0.0 is reached by other machines: give --api-key"),
        (["--host", "::"], ":: is reached by other machines"),
        (["--host", "192.0.2.7", "--api-key", "key"], "cannot listen at 192.0.2.7:"),
        (["builtin:chitchat", "builtin:chitchat"], "two models are called chitchat: write NAME=MODEL"),
        (["a=model", "a=gpt2"], "two models are called a"),
        (["no-such-folder"], "no-such-folder"),
        (["--feedback", "no/such/folder/file"], "no/such/folder/file cannot be written"),
        (["--votes", "."], ". cannot be written"),
        (["--api-key", "two words"], "a key is made of letters"),
        (["--api-key", ""], "a key is made of letters"),
        (["--api-key-file", "no-such-file"], "no-such-file cannot be read"),
        (["--api-key-file", "empty"], "empty holds no key"),
        (["--port", "TAKEN"], "give another --port"),
    ],
)
def test_what_is_wrong_with_the_command_is_told_in_one_line(
    run: Callable[..., int],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    message: str,
) -> None:
    monkeypatch.setattr("convmodel.server.logs.use_json_logs", lambda: None)  # pytest's handlers stay as they are
    Path("empty").touch()
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        given = [port if each == "TAKEN" else each for each in arguments]
        # Not "port 0" alone, so that nothing listens where a default port would be.
        assert run("serve", *given, *([] if "--port" in given else ["--port", "0"])) == 1
    shown = capfd.readouterr().err
    [line] = [line for line in shown.splitlines() if message in line]
    assert "Traceback" not in shown
    assert len(line) < 400


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_file_that_may_not_be_written(run: Callable[..., int], capfd: pytest.CaptureFixture[str]) -> None:
    Path("locked").touch(0o400)
    assert run("serve", "--feedback", "locked") == 1
    assert "locked cannot be written" in capfd.readouterr().err


def test_help_teaches(run: Callable[..., int], capfd: pytest.CaptureFixture[str]) -> None:
    assert run("serve", "--help") == 0
    shown = " ".join(capfd.readouterr().out.split())
    for word in ("NAME=MODEL", "--api-key-file", "--insecure-no-auth", "CONVMODEL_API_KEY", "SIGTERM", "--feedback"):
        assert word in shown
