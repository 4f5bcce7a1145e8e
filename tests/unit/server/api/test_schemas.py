"""Requests as pydantic reads them, and as options of `generate`."""

from typing import Any

import pytest
from pydantic import ValidationError

from convmodel.server.api.schemas import ChatRequest, CompletionRequest, ResponsesRequest

HELLO: dict[str, Any] = {"model": "m", "messages": [{"role": "user", "content": "Hello"}]}


def test_parameters_without_effect_are_dropped_and_others_are_refused() -> None:
    assert ChatRequest.model_validate(HELLO | {"tools": [], "store": False, "seed": None}).seed is None
    for name, value in {"tools": [{}], "store": 0, "unknown": 1}.items():
        with pytest.raises(ValidationError, match=name):
            ChatRequest.model_validate(HELLO | {name: value})


@pytest.mark.parametrize("temperature", [0, 0.009])
def test_a_low_temperature_is_greedy(temperature: float) -> None:
    options = ChatRequest.model_validate(HELLO | {"temperature": temperature, "seed": 1, "top_p": 0.5}).options
    assert (options["do_sample"], options["seed"]) == (False, None)
    assert not {"temperature", "top_p", "top_k"} & options.keys()


def test_sampling_parameters_are_options_of_generate() -> None:
    body = HELLO | {"temperature": 0.5, "min_p": 0.1, "n": 2, "stop": "a", "logit_bias": {"7": 1}, "seed": 3}
    options = ChatRequest.model_validate(body).options
    expected = {"temperature": 0.5, "min_p": 0.1, "num_return_sequences": 2, "stop_strings": ["a"],
                "logit_bias": {7: 1.0}, "seed": 3, "do_sample": True}  # fmt: skip
    assert options.items() >= expected.items()


@pytest.mark.parametrize("request_class", [ChatRequest, CompletionRequest])
def test_stream_options_need_a_stream(request_class: type[ChatRequest]) -> None:
    body = (HELLO if request_class is ChatRequest else {"model": "m", "prompt": "Hi"}) | {
        "stream_options": {"include_usage": True}
    }
    with pytest.raises(ValidationError, match="stream_options needs stream: true"):
        request_class.model_validate(body)
    assert request_class.model_validate(body | {"stream": True}).include_usage


def test_prompts_times_n_is_limited() -> None:
    body = {"model": "m", "prompt": ["a", "b", "c"], "n": 3}
    with pytest.raises(ValidationError, match="n = 3 with 3 prompts: at most 8"):
        CompletionRequest.model_validate(body)
    assert CompletionRequest.model_validate(body | {"n": 2}).prompts == ["a", "b", "c"]


@pytest.mark.slow
def test_instructions_count_as_a_message() -> None:
    body = {"model": "m", "input": [{"role": "user", "content": "Hi"}] * 4096}
    assert len(ResponsesRequest.model_validate(body).as_chat().messages) == 4096
    with pytest.raises(ValidationError, match="more than 4096 messages"):
        ResponsesRequest.model_validate(body | {"instructions": "Be kind"})


def test_responses_become_chat_requests() -> None:
    parts = [{"type": "input_text", "text": "Hi"}, {"type": "input_text", "text": "there"}]
    body = ResponsesRequest.model_validate(
        {"model": "m", "instructions": "Be kind", "input": [{"role": "user", "content": parts, "name": "Ann"}],
         "max_output_tokens": 5, "temperature": 0.3}
    )  # fmt: skip
    chat = body.as_chat()
    assert [(message.role, message.text, message.name) for message in chat.messages] == [
        ("system", "Be kind", None),
        ("user", "Hi\nthere", "Ann"),
    ]
    assert (chat.max_completion_tokens, chat.temperature) == (5, 0.3)
    assert ResponsesRequest(model="m", input="Hello").as_chat().messages == ChatRequest.model_validate(HELLO).messages
