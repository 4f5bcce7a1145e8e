"""`convmodel chat --url`: chats with a server, ours or a broken one."""

import io
import json
import logging
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from scripted import scripted
from serving import Serving, serving, wait_until

from convmodel import ConversationModel
from convmodel.cli.remote_session import PARAMETERS, RemoteSession
from convmodel.errors import ConfigError, GenerationError, ModelLoadError

pytestmark = pytest.mark.loopback


@contextmanager
def saying(*answers: bytes) -> Iterator[str]:
    """A server that gives these answers, one a request, whatever is asked."""
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            for each in answers:
                connection, _ = listening.accept()
                with connection:
                    connection.recv(65536)
                    connection.sendall(each)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
        thread.join(10)


def plain(status: str, body: object, *headers: str) -> bytes:
    content = body if isinstance(body, str) else json.dumps(body)
    head = [f"HTTP/1.1 {status}", "Connection: close", f"Content-Length: {len(content)}", *headers, "", ""]
    return "\r\n".join(head).encode() + content.encode()


def stream(*data: object, end: bool = True) -> bytes:
    lines = [f"data: {json.dumps(each)}\n\n" for each in data] + ["data: [DONE]\n\n"] * end
    return b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: text/event-stream\r\n\r\n" + "".join(lines).encode()


def chunk(text: str | None, reason: str | None = None) -> dict[str, object]:
    return {"choices": [{"index": 0, "delta": {"content": text} if text else {}, "finish_reason": reason}]}


MODELS = plain("200 OK", {"data": [{"id": "m"}]})
BUSY = plain("429 Too Many Requests", {"error": {"message": "many wait"}}, "Retry-After: 0.2")


def test_it_says_what_a_session_here_says(server: Serving, served_models: dict[str, ConversationModel]) -> None:
    here = served_models["tiny"].session(do_sample=False, max_new_tokens=9)
    with RemoteSession(f"{server.url}/v1", model="tiny", temperature=0.0, max_completion_tokens=9) as remote:
        for text in ("Hello", "And you?", "Well?"):
            assert remote.respond(text) == here.respond(text)
        assert remote.finish_reason == here.finish_reason
        assert (remote.undo(), here.undo()) == ("Well?", "Well?")
        assert remote.regenerate() == here.regenerate()
        assert remote.turns == here.turns
        remote.reset()
        assert remote.turns == []


def test_the_terminal_talks_with_a_server(
    server: Serving,
    run: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    reader_folder: Path,
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("Hello\n/retry\nAnd you?\n/undo\n/save talk.jsonl\n"))
    with scripted(server.model("tiny"), "Hi there", "Hey", "Fine"):
        assert run("chat", "--url", server.url, "--model", "tiny") == 0
    said = capsys.readouterr()
    assert said.out.splitlines() == ["Hi there", "Hey", "Fine"]
    assert "removed: And you?" in said.err
    assert json.loads((reader_folder / "talk.jsonl").read_text())["turns"] == ["Hello", "Hey"]


def test_what_is_left_to_the_server_is_shown_as_its_own(
    server: Serving, run: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    lines = ["/set", "/set seed", "/set max_new_tokens", "/set temprature"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    assert run("chat", "--url", server.url, "--model", "tiny", "--max-new-tokens", "9") == 0
    *listed, seed, limit, unknown = capsys.readouterr().err.splitlines()[-10:]
    assert [line.partition(" ")[0] for line in listed] == [*PARAMETERS]
    assert {"temperature 0.8", "max_completion_tokens 9", "stop (the server's)"} <= {*listed}
    assert (seed, limit) == ("seed (the server's)", "max_new_tokens 9")
    assert unknown.startswith("a server takes no option temprature; there are temperature, top_p")


def test_a_model_is_sampled_as_it_asks_for_in_chats(
    server: Serving,
    served_models: dict[str, ConversationModel],
    run: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = served_models["tiny"].hf_model.generation_config
    monkeypatch.setattr(config, "chat", {"temperature": 0.6, "top_p": 0.9}, raising=False)
    lines = ["/set top_p 0.5", "/set", "/set top_p null", "/set top_p"]
    monkeypatch.setattr("sys.stdin", io.StringIO("\n".join(lines)))
    assert run("chat", "--url", server.url, "--model", "tiny") == 0
    assert {"temperature 0.6", "top_p 0.5", "top_p 0.9"} <= {*capsys.readouterr().err.splitlines()}

    monkeypatch.setattr("sys.stdin", io.StringIO("/set\n"))
    assert run("chat", "--url", server.url, "--model", "tiny", "--greedy") == 0
    assert {"temperature 0.0", "top_p (the server's)"} <= {*capsys.readouterr().err.splitlines()}

    sampling = {"temperature": 0.8, "top_p": 0.95}
    here = served_models["tiny"].session(seed=1, max_new_tokens=9)
    with RemoteSession(server.url, model="tiny", sampling=sampling, seed=1, max_new_tokens=9) as remote:
        assert [remote.respond(text) for text in ("Hello", "Well?")] == [
            here.respond(text) for text in ("Hello", "Well?")
        ]


def test_requests_are_not_logged(run: Callable[..., int]) -> None:
    run("chat", "--url", "http://127.0.0.1:1")
    for library in ("httpx2", "httpcore2"):
        assert not logging.getLogger(library).isEnabledFor(logging.INFO)


def test_an_address_needs_no_scheme(server: Serving) -> None:
    with RemoteSession(server.url.removeprefix("http://") + "/v1/", model="tiny", max_new_tokens=2) as remote:
        assert remote.respond("Hello")


def test_options_and_the_model_can_change(server: Serving) -> None:
    with RemoteSession(server.url, model="tiny", max_new_tokens=1, seed=1) as remote:
        remote.respond("Hello")
        assert (remote.finish_reason, remote.options) == ("length", {"max_completion_tokens": 1, "seed": 1})
        with pytest.raises(ConfigError, match="a server takes no option num_beams; there are temperature, top_p"):
            remote.set_options(num_beams=2)
        remote.set_options(max_new_tokens=2, temperature=None)
        assert remote.options == {"max_completion_tokens": 2, "seed": 1}
        with pytest.raises(ModelLoadError, match="has no model other: it has tiny, plain"):
            remote.choose("other")
        remote.choose("plain")
        remote.respond("And you?")
        assert len(remote.turns) == 4


def test_a_response_that_is_interrupted_stops_the_server(server: Serving) -> None:
    with (
        RemoteSession(server.url, model="tiny", max_completion_tokens=100) as session,
        scripted(server.model("tiny"), "word " * 100, seconds=0.2),
    ):
        pieces = session.stream("Hello")
        first = next(pieces)
        pieces.close()  # type: ignore[attr-defined]
        assert wait_until(lambda: server.is_idle("tiny")) < 10  # the whole takes 20 seconds
    assert session.turns == ["Hello", first]
    assert session.finish_reason is None


def test_turns_that_fall_out_are_told(server: Serving) -> None:
    with RemoteSession(server.url, model="tiny", max_completion_tokens=4) as session:
        for _ in range(12):
            session.respond("many words that fill the context of a small model soon")
        assert session.left_out > 0


def test_models_and_keys_are_asked_for(server: Serving, served_models: dict[str, ConversationModel]) -> None:
    with pytest.raises(ConfigError, match=r"models: name one with --model \(.*tiny"):
        RemoteSession(server.url)
    with pytest.raises(ModelLoadError, match="has no model gpt-5: it has"):
        RemoteSession(server.url, model="gpt-5")
    with serving({"tiny": served_models["tiny"]}, api_keys=("secret",)) as locked:
        with pytest.raises(ConfigError, match=r"needs a key.*--api-key KEY"):
            RemoteSession(locked.url, api_key="wrong")
        with RemoteSession(locked.url, api_key="secret") as session:
            assert session.model == "tiny"


def test_nobody_there_and_no_api_are_told() -> None:
    with pytest.raises(ModelLoadError, match=r"does not answer.*is the server running"):
        RemoteSession("http://127.0.0.1:9")
    with pytest.raises(ModelLoadError, match="does not answer"):
        RemoteSession("localhost:8000")
    with saying(plain("200 OK", "<html>")) as url, pytest.raises(ModelLoadError, match="lists no models"):
        RemoteSession(url)


def test_a_busy_server_is_asked_again() -> None:
    waited: list[float] = []
    answers = MODELS, BUSY, BUSY, stream(chunk("Hi"), chunk(None, "stop"))
    with saying(*answers) as url, RemoteSession(url, on_wait=waited.append) as session:
        assert session.respond("Hello") == "Hi"
    assert waited == [0.2, 0.2]


def test_a_stream_that_breaks_keeps_what_came() -> None:
    half = stream(chunk("Half a "), chunk("resp"), end=False)
    with saying(MODELS, half) as url, RemoteSession(url) as session, pytest.raises(GenerationError, match="broke"):
        session.respond("Hello")
    assert session.turns == ["Hello", "Half a resp"]


@pytest.mark.parametrize(
    ("answer", "error", "words"),
    [
        (stream({"error": {"message": "the model failed"}}), GenerationError, "failed: the model failed"),
        (stream(["no", "chunk"]), GenerationError, "does not provide OpenAI's API"),
        (plain("400 Bad Request", {"error": {"message": "too long"}}), GenerationError, "refuses: too long"),
        (plain("503 Service Unavailable", "oh"), ModelLoadError, "status 503"),
        (b"nonsense\r\n\r\n", GenerationError, "broke"),
    ],
)
def test_what_goes_wrong_leaves_the_session_as_it_was(answer: bytes, error: type[Exception], words: str) -> None:
    with saying(MODELS, answer) as url, RemoteSession(url) as session, pytest.raises(error, match=words):
        session.respond("Hello")
    assert session.turns == []


def test_quantizing_is_the_servers(run: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert run("chat", "--url", "http://127.0.0.1:9", "--quantize", "int8") == 1
    assert "--quantize does not apply to the model of a server" in capsys.readouterr().err
