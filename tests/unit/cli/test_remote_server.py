"""The connection to a server with OpenAI's API: addresses, keys, models and errors."""

from pathlib import Path

import pytest
from answering import answering, failed

from convmodel.cli.remote_server import RemoteServer, complete_url, message_of, read_key
from convmodel.errors import ConfigError, GenerationError, ModelLoadError

pytestmark = pytest.mark.loopback


@pytest.mark.parametrize(
    ("written", "complete"),
    [
        ("127.0.0.1:8765", "http://127.0.0.1:8765"),
        ("localhost:8765/v1", "http://localhost:8765"),
        ("[::1]:8765/", "http://[::1]:8765"),
        ("192.168.1.5:8000", "http://192.168.1.5:8000"),
        ("api.example.com/v1", "https://api.example.com"),
        ("8.8.8.8:8000", "https://8.8.8.8:8000"),  # a key is never sent in plain text unless it is asked for
        ("http://8.8.8.8:8000/v1", "http://8.8.8.8:8000"),
    ],
)
def test_an_address_is_completed(written: str, complete: str) -> None:
    assert complete_url(written) == complete


@pytest.mark.parametrize(
    ("path", "requested"),
    [
        ("", "/v1/chat/completions"),
        ("/v1/", "/v1/chat/completions"),
        ("/api/v1", "/api/v1/chat/completions"),
        ("/behind", "/behind/v1/chat/completions"),
        ("/v1beta/openai", "/v1beta/openai/chat/completions"),
    ],
)
def test_an_address_with_a_version_inside_is_whole(path: str, requested: str) -> None:
    with answering() as server, RemoteServer(server.url + path) as remote:
        messages = [{"role": "user", "content": "Hi"}]
        assert remote.client.post("/chat/completions", json={"messages": messages}).status_code == 200
    assert [headers["path"] for headers in server.headers] == [requested]


def test_the_key_is_sent_without_the_end_of_its_line() -> None:
    with answering() as server, RemoteServer(server.url, api_key=" secret\n") as remote:
        remote.require_access()
    assert server.headers[-1]["authorization"] == "Bearer secret"


@pytest.mark.parametrize("key", ["sécret", "sec\nret"])
def test_a_key_that_no_header_can_carry_is_an_error(key: str) -> None:
    with pytest.raises(ConfigError, match="the API key is not valid"):
        RemoteServer("127.0.0.1:9", api_key=key)


@pytest.mark.parametrize("url", ["http://[::1", "http://127.0.0.1:port"])
def test_what_is_not_an_address_is_an_error(url: str) -> None:
    with pytest.raises((ConfigError, ModelLoadError)), RemoteServer(url) as remote:
        remote.require_access()


def test_models_are_chosen_by_name_or_because_there_is_one() -> None:
    with answering() as server, RemoteServer(server.url) as remote:
        assert (remote.choose_model("m"), remote.choose_model(None)) == ("m", "m")
        server.models = ["m", "n"]
        with pytest.raises(ConfigError, match=r"has 2 models: name one with --model \(m, n\)"):
            remote.choose_model(None)
        with pytest.raises(ModelLoadError, match="has no model o: it has m, n"):
            remote.choose_model("o")
        server.models = None
        remote.require_access()  # not every server lists its models
        with pytest.raises(ModelLoadError, match="there is nothing"):
            remote.choose_model("m")
    with RemoteServer("127.0.0.1:9") as remote, pytest.raises(ModelLoadError, match="is the server running"):
        remote.require_access()


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        (401, ConfigError, "refuses: it failed; give --api-key KEY"),
        (404, ModelLoadError, ": it failed"),
        (400, GenerationError, "refuses: it failed"),
    ],
)
def test_errors(status: int, error: type[Exception], message: str) -> None:
    with answering(lambda body, earlier: failed(status)) as server, RemoteServer(server.url) as remote:
        response = remote.client.post("/chat/completions", json={"messages": []})
        assert isinstance(remote.error(response), error)
        assert str(remote.error(response)).endswith(message)


def test_an_error_without_a_message_is_its_status() -> None:
    with answering(lambda body, earlier: (502, b"<html>", {})) as server, RemoteServer(server.url) as remote:
        assert message_of(remote.client.post("/chat/completions", json={"messages": []})) == "status 502"


def test_a_key_is_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    with pytest.raises(ConfigError, match="cannot be read"):
        read_key(file)
    file.write_text("\n")
    with pytest.raises(ConfigError, match="contains no key: write one"):
        read_key(file)
    file.write_text("secret\n")
    assert read_key(file) == "secret"
