"""Responses that are the best of several candidates: the model's own number, and a request's."""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from serving import Serving, serving

from convmodel import ConversationModel

pytestmark = pytest.mark.loopback

SAID = [{"role": "user", "content": "Hello there"}]
DRAWN: dict[str, Any] = {"temperature": 1.2, "seed": 4, "max_tokens": 8}


@pytest.fixture
def asking(
    served_models: dict[str, ConversationModel], monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[Serving, ConversationModel]]:
    """A server whose model asks for candidates in chats."""
    model = served_models["tiny"]
    chat = {"candidates": 4, "repeat_weight": 2.0}
    monkeypatch.setattr(model.hf_model.generation_config, "chat", chat, raising=False)
    with serving({"tiny": model}) as served:
        yield served, model


def expected(model: ConversationModel, **options: Any) -> str:
    drawn = {"do_sample": True, "temperature": 1.2, "top_k": 0, "top_p": 1.0, "seed": 4, "max_new_tokens": 8}
    return model.generate(["Hello there"], min_new_tokens=1, reply_as="assistant", **drawn | options).responses[0]


def content(answer: Any) -> str:
    [choice] = answer.json["choices"]
    text: str = choice["message"]["content"]
    return text


def test_the_best_of_the_models_candidates_is_returned(asking: tuple[Serving, ConversationModel]) -> None:
    server, model = asking
    best = expected(model, candidates=4, repeat_weight=2.0)
    answer = server.chat(SAID, **DRAWN)
    assert content(answer) == best
    usage = answer.json["usage"]
    assert 0 < usage["completion_tokens"] <= 8
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"]

    *chunks, done = server.chat(SAID, **DRAWN, stream=True).events
    assert done == "[DONE]"
    assert {choice["index"] for chunk in chunks for choice in chunk["choices"]} == {0}
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks if chunk["choices"]) == best

    logged = server.chat(SAID, **DRAWN, logprobs=True, top_logprobs=2).json["choices"][0]
    assert logged["message"]["content"] == best
    assert "".join(bytes(token["bytes"]).decode() for token in logged["logprobs"]["content"]) == best


def test_a_request_decides(asking: tuple[Serving, ConversationModel]) -> None:
    server, model = asking
    assert content(server.chat(SAID, **DRAWN, candidates=1)) == expected(model)
    assert content(server.chat(SAID, **DRAWN, candidates=6)) == expected(model, candidates=6, repeat_weight=2.0)
    greedy = DRAWN | {"temperature": 0}
    assert content(server.chat(SAID, **greedy)) == expected(
        model, do_sample=False, temperature=None, top_p=None, top_k=None, seed=None
    )
    assert len(server.chat(SAID, **DRAWN, n=2).json["choices"]) == 2
    for wrong in ({"candidates": 3, "n": 2}, {"candidates": 3, "temperature": 0}, {"candidates": 0}):
        refused = server.chat(SAID, **DRAWN | wrong)
        assert (refused.status, refused.error["param"]) == (400, "candidates")


def test_a_model_that_asks_for_none_draws_one(server: Serving) -> None:
    model = server.registry.get("tiny").model
    assert content(server.chat(SAID, **DRAWN)) == expected(model)
    assert content(server.chat(SAID, **DRAWN, candidates=5)) == expected(model, candidates=5)


@pytest.mark.slow
def test_requests_beside_candidates_are_unchanged(asking: tuple[Serving, ConversationModel]) -> None:
    server, model = asking
    with server.begin(stream=True, candidates=6, **DRAWN | {"max_tokens": 30}) as stream:
        assert content(server.chat(SAID, **DRAWN, candidates=1)) == expected(model)
        got = b""
        while b"[DONE]" not in got:
            got += stream.recv(65536)
    assert b'"finish_reason"' in got


def test_what_fails_while_choosing_is_an_error_of_its_request(
    asking: tuple[Serving, ConversationModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    server, model = asking

    def fail(*_: Any) -> int:
        raise MemoryError

    monkeypatch.setattr("convmodel.server.api.requests._best", fail)
    answer = server.chat(SAID, **DRAWN)
    assert answer.status == 500
    assert json.loads(answer.body)["error"]["message"]
    monkeypatch.undo()
    assert content(server.chat(SAID, **DRAWN, candidates=1)) == expected(model)
