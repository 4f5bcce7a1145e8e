"""`convmodel serve` as people run it: keys, logs, the end, and mistakes in its options."""

import importlib.util
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from serving import Address, free_port, program, read_all, read_until, wait_until

from convmodel import ConversationModel
from convmodel.server.serving.model_registry import ModelRegistry

pytestmark = pytest.mark.loopback

SLOW = """\
import time

from convmodel.cli.main import main
from convmodel.generation.engine.engine import Engine

step = Engine.step


def slow_step(engine):
    time.sleep(0.5)
    return step(engine)


Engine.step = slow_step
main()
"""
"""The command with models that are slow on any machine."""


@pytest.mark.long
def test_the_program_logs_json_without_texts_and_ends_well(tmp_path: Path) -> None:
    """Three streams of 300 tokens are in work when the signal comes."""
    secret = "Grandmother's secret"
    (tmp_path / "keys").write_text("key-of-file\n\nanother\n")
    arguments = ["builtin:chitchat", "mine=builtin:chitchat", "--train", "tuned"]
    arguments += ["--api-key-file", "keys", "--api-key", "key-of-option"]
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
                 "candidates": 1, "logit_bias": ends, "stream_options": {"include_usage": True}}  # fmt: skip
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
    [line] = [line for line in lines if line.startswith("Serving chitchat, mine: chat at http://127.0.0.1:")]
    assert "(its view Train makes a model from a chat export)" in line
    asked_for = [each for each in logged if each["message"] == "request"]
    assert {each["status"] for each in asked_for} >= {200, 401}
    assert all(each.keys() >= {"at", "level", "request", "method", "route", "status", "seconds"} for each in asked_for)


@pytest.mark.long
def test_on_a_terminal_the_logs_are_for_people(tmp_path: Path) -> None:
    ours, theirs = os.openpty()
    port = free_port()
    command = [sys.executable, "-m", "convmodel", "serve", "builtin:chitchat", "--port", str(port)]
    with subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, cwd=tmp_path) as process:
        os.close(theirs)
        served, text = Address(port), b""
        while b"Ctrl+C stops the server" not in text:
            text += os.read(ours, 65536)
        wait_until(lambda: served.get("/ready").status == 200)
        served.get("/v1/models")
        while b"GET  /v1/models             200" not in text:
            text += os.read(ours, 65536)
        process.send_signal(signal.SIGINT)
        while b"shutting down" not in text:
            text += os.read(ours, 65536)
        assert process.wait(30) in (0, 130)
        os.close(ours)
    shown = text.decode()
    assert "{" not in shown
    assert "Started server process" not in shown
    before, after = shown.split(f"Serving chitchat: chat at http://127.0.0.1:{port}")
    assert "GET" not in before
    lines = [line for line in after.splitlines()[1:] if line.strip()]
    assert all(re.match(r"(\r|\x1b\[K|\^C)*\d\d:\d\d:\d\d  (GET|shutting down)", line) for line in lines[1:])


@pytest.mark.long
@pytest.mark.parametrize(
    ("number", "again"),
    [(signal.SIGINT, "press Ctrl+C again to abort"), (signal.SIGTERM, "send SIGTERM again to abort")],
)
def test_a_second_signal_stops_at_once_and_logs_no_error(tmp_path: Path, number: int, again: str) -> None:
    """The response would take minutes, more than everything here may take."""
    (tmp_path / "main.py").write_text(SLOW)
    ends = dict.fromkeys(ConversationModel.from_pretrained("builtin:chitchat").tokenizer.stop_token_ids, -100)
    options = {"model": "chitchat", "stream": True, "candidates": 1, "max_completion_tokens": 400, "logit_bias": ends}
    with program(tmp_path, "builtin:chitchat", script=tmp_path / "main.py") as served:
        wait_until(served.ready, 60)
        with served.begin(**options) as connection, served.begin(**options | {"stream": False}) as other:
            head = read_until(connection, b"data: ")
            assert head.startswith(b"HTTP/1.1 200 ")
            wait_until(lambda: b'convmodel_running_requests{model="chitchat"} 2.0' in served.get("/metrics").body)
            served.process.send_signal(number)
            wait_until(lambda: again in served.output())
            assert served.end(number) == 0
            rest = read_all(connection)
            answer = read_all(other)
        assert b'"choices"' not in answer
        assert b"[DONE]" not in rest
        assert b'"finish_reason":"' not in rest
        assert not rest.endswith(b"0\r\n\r\n")  # which ends a whole response
        shown = served.output()
    assert "Traceback" not in shown
    assert '"level": "error"' not in shown


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--host", "0.0.0.0"], "0.0.0.0 can be reached by other machines: give --api-key"),
        (["--host", "::"], ":: can be reached by other machines"),
        (["--host", "192.0.2.7", "--api-key", "key"], "cannot listen on 192.0.2.7:"),
        (["builtin:chitchat", "builtin:chitchat"], "two models are called chitchat: write NAME=MODEL"),
        (["a=model", "a=gpt2"], "two models are called a"),
        (["no-such-folder"], "no-such-folder"),
        (["--feedback", "no/such/folder/file"], "no/such/folder/file cannot be written"),
        (["--votes", "."], ". cannot be written"),
        (["--votes", "train.jsonl"], "train.jsonl:1: this is not a vote"),
        (["x" * 300], "... cannot be read: File name too long; give a folder or a Hub id"),
        (["caf\udce9"], r"the name of the folder caf\xe9 is not UTF-8"),
        (["--api-key", "two words"], "an API key is not valid"),
        (["--api-key", ""], "an API key is not valid"),
        (["--api-key-file", "no-such-file"], "no-such-file cannot be read"),
        (["--api-key-file", "empty"], "empty contains no key"),
        (["--port", "TAKEN"], "give another --port"),
    ],
)
def test_what_is_wrong_with_the_command_is_told_in_one_line(
    run: Callable[..., int],
    capfd: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
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


@pytest.mark.parametrize("flag", ["--train", "--allow-training"])
@pytest.mark.parametrize(
    ("package", "message"), [("accelerate", "training needs accelerate"), ("peft", "LoRA adapters need peft")]
)
def test_without_the_packages_of_training_a_server_that_may_train_does_not_start(
    run: Callable[..., int],
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    flag: str,
    package: str,
    message: str,
) -> None:
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == package else find_spec(name, *rest)
    )
    monkeypatch.setattr("convmodel.server.run.run", lambda registry, listener, fine_tuning: listener.close())

    assert run("serve", "model", "--port", "0", "--feedback", "f.jsonl", flag, "trained") == 1

    assert f"{message} (the extra train): " in capfd.readouterr().err
    assert not Path("trained").exists()
    assert run("serve", "model", "--port", "0", "--feedback", "f.jsonl") == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_file_that_may_not_be_written(run: Callable[..., int], capfd: pytest.CaptureFixture[str]) -> None:
    Path("locked").touch(0o400)
    assert run("serve", "--feedback", "locked") == 1
    assert "locked cannot be written" in capfd.readouterr().err


def test_a_server_that_was_stopped_while_it_loads_has_no_error(
    run: Callable[..., int], monkeypatch: pytest.MonkeyPatch
) -> None:
    errors: list[Exception | None] = []

    def stop_and_load(registry: ModelRegistry, listener: socket.socket, fine_tuning: None) -> None:
        listener.close()  # as after SIGTERM, while the thread goes on
        registry.drain()
        registry.start()
        wait_until(lambda: registry._models or registry.error)
        errors.append(registry.error)
        registry.close()

    monkeypatch.setattr("convmodel.server.run.run", stop_and_load)
    assert run("serve", "model", "--port", "0") == 0
    assert errors == [None]


def test_help_teaches(run: Callable[..., int], capfd: pytest.CaptureFixture[str]) -> None:
    assert run("serve", "--help") == 0
    shown = " ".join(capfd.readouterr().out.split())
    for word in ("NAME=MODEL", "--api-key-file", "--insecure-no-auth", "CONVMODEL_API_KEY", "SIGTERM", "--feedback"):
        assert word in shown
