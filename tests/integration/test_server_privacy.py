"""Nobody learns another's text through the prefix cache: neither by counts of cached tokens nor by times."""

import time
from collections.abc import Iterator
from typing import Any

import pytest
from serving import Serving, serving

from convmodel import ConversationModel

pytestmark = pytest.mark.loopback

KEYS = ("alice-key", "mallory-key")
SECRET = "My bank PIN is 4821 and my cat is called Minka"
GUESSES = ["My bank PIN is 4", "My bank PIN is 4821 and my dog", SECRET, f"{SECRET} x"]


@pytest.fixture(scope="module")
def open_server(served_models: dict[str, ConversationModel]) -> Iterator[Serving]:
    with serving(served_models) as served:
        yield served


@pytest.fixture(scope="module")
def locked(served_models: dict[str, ConversationModel]) -> Iterator[Serving]:
    with serving(served_models, api_keys=KEYS) as served:
        yield served


def bearer(number: int, session: str = "") -> dict[str, str]:
    return {"Authorization": f"Bearer {KEYS[number]}", "X-Session-Id": session}


def said(*texts: str) -> list[dict[str, str]]:
    return [{"role": ("user", "assistant")[number % 2], "content": text} for number, text in enumerate(texts)]


def ask(server: Serving, headers: dict[str, str], *texts: str, path: str = "chat/completions") -> tuple[int, Any]:
    """Returns the cached tokens of a request, and the whole answer."""
    body: dict[str, Any] = {"model": "tiny", "temperature": 0}
    if path == "chat/completions":
        body |= {"messages": said(*texts), "max_tokens": 3}
    elif path == "responses":
        body |= {"input": said(*texts), "max_output_tokens": 3}
    else:
        body |= {"prompt": list(texts), "max_tokens": 3}
    answer = server.ask("POST", f"/v1/{path}", body, headers)
    assert answer.status == 200, answer.body
    usage = answer.json["usage"]
    details = usage["input_tokens_details" if path == "responses" else "prompt_tokens_details"]
    return details["cached_tokens"], answer.json


@pytest.mark.parametrize("path", ["chat/completions", "responses", "completions"])
def test_a_key_finds_nothing_of_another_key(locked: Serving, path: str) -> None:
    locked.engine().caches.clear()
    ask(locked, bearer(0), SECRET, path=path)
    for guess in GUESSES:
        locked.engine().caches._entries[1:] = []  # what the guesses left
        assert ask(locked, bearer(1), guess, path=path)[0] == 0
    assert ask(locked, bearer(0), SECRET, path=path)[0] > 10


def test_without_keys_a_session_finds_nothing_of_another(open_server: Serving) -> None:
    for other in ({"X-Session-Id": "mallory"}, {}):
        open_server.engine().caches.clear()
        ask(open_server, {"X-Session-Id": "alice"}, SECRET)
        for guess in GUESSES:
            open_server.engine().caches._entries[1:] = []
            assert ask(open_server, other, guess)[0] == 0
    assert ask(open_server, {"X-Session-Id": "alice"}, SECRET + " too")[0] > 10


def test_without_key_and_session_no_part_of_a_turn_is_found(open_server: Serving) -> None:
    open_server.engine().caches.clear()
    _, answer = ask(open_server, {}, SECRET)
    for guess in (GUESSES[0], GUESSES[1], GUESSES[3]):
        open_server.engine().caches._entries[1:] = []
        assert ask(open_server, {}, guess)[0] == 0
    # A client that sends the whole conversation finds all of it, as before.
    reply, prompt = answer["choices"][0]["message"]["content"], answer["usage"]["prompt_tokens"]
    assert ask(open_server, {}, SECRET, reply, "And now?")[0] >= prompt


@pytest.mark.slow
@pytest.mark.parametrize("owner", [{"X-Session-Id": "alice"}, {}])
def test_the_time_to_the_first_token_shows_nothing_of_another(
    open_server: Serving, monkeypatch: pytest.MonkeyPatch, owner: dict[str, str]
) -> None:
    engine = open_server.engine()
    engine.caches.clear()
    read = engine.runner.read

    def slow_read(parts: Any) -> Any:
        tokens = sum(len(row) for part in parts for row in part.ids)
        time.sleep(0.008 * tokens)  # per token, so that the time counts the tokens that were not cached
        return read(parts)

    monkeypatch.setattr(engine.runner, "read", slow_read)
    secret = " ".join([SECRET] * 5)

    def first_token(headers: dict[str, str], *texts: str) -> tuple[float, float]:
        """Returns the time, and that of reading the whole prompt."""
        usage = ask(open_server, headers, *texts)[1]["usage"]
        return usage["convmodel"]["first_token_seconds"], 0.008 * usage["prompt_tokens"]

    time_taken, whole = first_token(owner, secret)
    assert time_taken >= whole
    reply = ask(open_server, owner, secret)[1]["choices"][0]["message"]["content"]
    assert min(first_token(owner, secret, reply, "And?")[0] for _ in range(3)) < 0.5 * whole  # within a conversation
    for other in ({"X-Session-Id": "mallory"}, {"X-Session-Id": "another"}):
        time_taken, whole = first_token(other, secret)
        assert time_taken >= whole
