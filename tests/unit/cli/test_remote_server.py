"""The connection to a server with OpenAI's API: addresses, keys, models and errors."""

import json
from pathlib import Path

import httpx2
import pytest
from answering import Reply, answering, failed

from convmodel.cli.remote_server import RemoteServer, complete_url, message_of, one_line, openai_key, read_key
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
        ("https://api.example.com/v1/chat/completions", "https://api.example.com"),
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


@pytest.mark.parametrize("url", ["", "http://[::1", "http://127.0.0.1:port", "ftp://127.0.0.1", "not an address"])
def test_what_is_not_an_address_is_an_error(url: str) -> None:
    with pytest.raises(ConfigError, match=r"is not an address.*: write one such as"):
        RemoteServer(url)


@pytest.mark.parametrize(
    "url", ["user:secret@127.0.0.1:9", "http://secret@127.0.0.1:9", "127.0.0.1:9/v1?key=secret", "127.0.0.1:9#secret"]
)
def test_an_address_with_a_secret_is_an_error_that_does_not_show_it(url: str) -> None:
    with pytest.raises(ConfigError, match="leave it out, and give the key with --api-key") as error:
        RemoteServer(url)
    assert "secret" not in str(error.value)


@pytest.mark.parametrize(
    ("url", "is_sent"),
    [
        ("api.openai.com", True),
        ("https://API.OpenAI.com/v1", True),
        ("eu.api.openai.com.", True),
        ("openai.com", True),
        ("http://api.openai.com", False),  # in plain text
        ("127.0.0.1:8000", False),
        ("openrouter.ai/api/v1", False),
        ("notopenai.com", False),
        ("api.openai.com.example.com", False),
        ("api.openai.com@example.com", False),
        ("example.com/api.openai.com", False),
        ("example.com?.openai.com", False),
        ("example.com\\.openai.com", False),
        ("myresource.openai.azure.com", False),
        ("[::1", False),
    ],
)
def test_openais_key_is_for_openais_hosts(url: str, is_sent: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "secret")
    assert openai_key(url) == ("secret" if is_sent else None)
    monkeypatch.delenv("OPENAI_API_KEY")
    assert openai_key(url) is None


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
    ("own", "sampling"),
    [
        ({"defaults": {"temperature": 0.6, "top_p": 1, "top_k": 5}}, {"temperature": 0.6, "top_p": 1}),
        ({"defaults": {"temperature": "0.6", "top_p": None}}, {}),
        ({"defaults": 5}, {}),
        ("0.4", {}),
    ],
)
def test_settings_for_chats_are_read_where_a_server_publishes_them(own: object, sampling: dict[str, float]) -> None:
    with answering() as server, RemoteServer(server.url) as remote:
        assert remote.chat_sampling("m") == {}
        server.models = ["m", {"id": "n", "convmodel": own}]
        assert [remote.chat_sampling(remote.choose_model(name)) for name in "mn"] == [{}, sampling]


@pytest.mark.parametrize(
    ("status", "error", "message"),
    [
        (401, ConfigError, "refuses: it failed; give --api-key KEY"),
        (403, ConfigError, "refuses: it failed"),
        (404, ModelLoadError, ": it failed"),
        (400, GenerationError, "refuses: it failed"),
    ],
)
def test_errors(status: int, error: type[Exception], message: str) -> None:
    with answering(lambda body, earlier: failed(status)) as server, RemoteServer(server.url) as remote:
        response = remote.client.post("/chat/completions", json={"messages": []})
        assert isinstance(remote.error(response), error)
        assert str(remote.error(response)).endswith(message)


def test_a_key_that_a_server_repeats_is_not_shown() -> None:
    reply = failed(401, "no key secret")
    with answering(lambda body, earlier: reply) as server, RemoteServer(server.url, api_key="secret") as remote:
        response = remote.client.post("/chat/completions", json={"messages": []})
        assert str(remote.error(response)).endswith("refuses: no key ***; check --api-key KEY")


def test_a_redirect_is_not_followed_and_its_aim_is_named() -> None:
    def reply(body: object, earlier: int) -> Reply:
        return 308, {}, {"Location": "https://api.example.com/v1"}

    with answering(reply) as server, RemoteServer(server.url, api_key="secret") as remote:
        response = remote.client.post("/chat/completions", json={"messages": []})
        assert "redirects to https://api.example.com/v1, which is not followed: give" in str(remote.error(response))


def test_tls_where_there_is_none_is_named() -> None:
    message = "write http:// before its address if it has no TLS"
    with (
        answering() as server,
        RemoteServer(server.url.replace("http:", "https:")) as remote,
        pytest.raises(ModelLoadError, match=message),
    ):
        remote.require_access()


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"<html>", "status 502"),
        ([1], "status 502"),
        ({"error": None}, "status 502"),
        ({"error": {"message": None}}, "status 502"),
        ({"error": "loading"}, "loading"),
        ({"error": {"message": "loading"}}, "loading"),
        ({"object": "error", "message": "loading"}, "loading"),
        ({"detail": "loading"}, "loading"),
        ({"detail": [{"loc": ["body"]}]}, "status 502"),
    ],
)
def test_the_message_of_an_error(body: object, message: str) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    assert message_of(httpx2.Response(502, content=content)) == message


def test_a_text_of_a_server_is_shown_in_one_line() -> None:
    assert one_line("a\n b\x1b[2J\x07") == "a b[2J"
    assert one_line("y" * 301) == "y" * 300 + " ..."


def test_a_key_is_read_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "key"
    with pytest.raises(ConfigError, match="cannot be read"):
        read_key(file)
    file.write_text("\n")
    with pytest.raises(ConfigError, match="contains no key: write one"):
        read_key(file)
    file.write_text("secret\n")
    assert read_key(file) == "secret"
