"""Bodies of a mebibyte, whatever their shape, take little work, and none of it on the event loop."""

import json
import re
import time
from typing import Any

import pytest
from pydantic import BaseModel

from convmodel.server.api.body import validated
from convmodel.server.api.feedback import FeedbackRequest, VoteRequest
from convmodel.server.api.schemas import ChatRequest, CompletionRequest, ResponsesRequest
from convmodel.server.errors import ApiError
from convmodel.server.settings import MAX_BODY

SCHEMAS = (ChatRequest, CompletionRequest, ResponsesRequest, FeedbackRequest, VoteRequest)
CHAT = '{"model": "m", "messages": ['
TURN = '{"role": "user", "content": "a"}'


def filled(begin: str, item: str, end: str) -> bytes:
    count = (MAX_BODY - len(begin) - len(end)) // (len(item) + 1)
    return (begin + ",".join([item] * count) + end).encode()


def keys(begin: str, value: str, end: str, count: int) -> bytes:
    return (begin + ",".join(f'"k{number}": {value}' for number in range(count)) + end).encode()


FLOODS = {
    "empty objects": filled(CHAT, "{}", "]}"),
    "empty lists": filled(CHAT, "[]", "]}"),
    "empty texts": filled(CHAT, '""', "]}"),
    "numbers": filled(CHAT, "1", "]}"),
    "parts": filled(CHAT + '{"role": "user", "content": [', "{}", "]}]}"),
    "fields": keys("{", "1", "}", 60_000),
    "metadata": keys(CHAT + TURN + '], "metadata": {', "1", "}}", 30_000),
    "biases": keys(CHAT + TURN + '], "logit_bias": {', '"x"', "}}", 30_000),
    "stops": (CHAT + TURN + '], "stop": [' + ",".join(["1"] * 30_000) + "]}").encode(),
    "depth": b'{"model": "m", "messages": ' + b"[" * 500_000 + b"]" * 500_000 + b"}",
    "depth of objects": b'{"a":' * 170_000,
    "a long number": (CHAT + TURN + '], "seed": ' + "9" * 10**6 + "}").encode(),
    "a large exponent": (CHAT + TURN + '], "temperature": 1e' + "9" * 10**6 + "}").encode(),
    "quotes": b'"' * MAX_BODY,
    "escaped quotes": b'{"a": "' + b'\\"' * 500_000,
    "backslashes": b'{"a": "' + b"\\" * 10**6,
    "nothing": b" " * 10**6,
    "spaces": (CHAT + " " * 10**6 + "]}").encode(),
    "extra fields": (CHAT + ",".join(['{"role": "user", "content": "a", "x": 1}'] * 4000) + "]}").encode(),
    "wrong at the end": (CHAT + ",".join([TURN] * 4000) + ', {"role": "user"}]}').encode(),
}


@pytest.mark.parametrize("name", FLOODS)
def test_every_flood_is_refused_with_little_work(name: str) -> None:
    for schema in SCHEMAS:
        begin = time.process_time()
        with pytest.raises(ApiError):
            validated(schema, FLOODS[name])
        assert time.process_time() - begin < 1  # without bounds, up to 9 s


@pytest.mark.parametrize("text", ["," * 10**6, "[{" * 500_000, '\\"' * 500_000, "\\\\" * 500_000, '\\\\\\",' * 200_000])
def test_marks_in_a_text_do_not_count(text: str) -> None:
    body = f'{CHAT}{{"role": "user", "content": "{text}"}}]}}'.encode()
    request: Any = validated(ChatRequest, body)
    assert len(request.messages[0].text) == len(text.encode().decode("unicode_escape"))


def test_the_most_messages_with_parts_are_accepted() -> None:
    turn = '{"role": "user", "content": [{"type": "text", "text": "a"}]}'
    request: Any = validated(ChatRequest, (CHAT + ",".join([turn] * 4096) + "]}").encode())
    assert len(request.messages) == 4096


def test_marks_are_counted_up_to_the_limit_in_any_encoding_of_a_text() -> None:
    class Anything(BaseModel):
        a: Any

    inside = ",".join(['"\\u005c\\"[{,"', '"\\\\"', '"é,"'] * 10_000)
    value: Any = validated(Anything, f'{{"a": [{inside}]}}'.encode())
    assert len(value.a) == 30_000
    with pytest.raises(ApiError, match="more than 32768 commas and brackets"):
        validated(Anything, f'{{"a": [{inside}, {inside}]}}'.encode())


@pytest.mark.parametrize("body", [b"", b"{", b"\xff", '{"a": 1}'.encode("utf-16"), b'{"a": "\xed\xa0\x80"}', b"{}{}"])
def test_what_is_not_json_in_utf_8_is_refused(body: bytes) -> None:
    with pytest.raises(ApiError, match="not valid JSON"):
        validated(ChatRequest, body)


HI = [{"role": "user", "content": "Hi"}]
TEXT_PART = {"type": "text", "text": "a", "cache_control": {"type": "ephemeral"}}
IMAGE_PART = {"type": "image_url", "image_url": {"url": "data:,"}}

CHAT_ERRORS = [
    (
        {"messages": [{"role": "user", "content": [IMAGE_PART]}]},
        "messages.0.content.0.type",
        "should be 'text', 'input",
    ),
    ({"messages": [{"role": "user", "content": [TEXT_PART]}]}, "messages.0.content.0.cache_control", "leave it out"),
    ({"messages": [{"role": "user", "content": []}]}, "messages.0.content", "at least 1 item"),
    ({"messages": [{"role": "user", "content": 5}]}, "messages.0.content", "string or: Input should be a valid list"),
    (
        {"messages": [{"role": "assistant", "content": None, "tool_calls": [1]}]},
        "messages.0.tool_calls.0",
        "valid dictionary",
    ),
    ({"messages": [*HI, {"role": "user"}]}, "messages.1.content", "Field required"),
    ({"messages": [*HI, "Hi"]}, "messages.1", "valid dictionary"),
    ({"stop": ""}, "stop", "at least 1 character"),
    ({"stop": ["a"] * 17}, "stop", "at most 16 items"),
    ({"stop": ["a", 5]}, "stop.1", "valid string"),
    ({"top_logprobs": 5}, "top_logprobs", "top_logprobs needs logprobs: true"),
    ({"stream_options": {"include_usage": True}}, "stream_options", "stream_options needs stream: true"),
    ({"logit_bias": {"a": 1}}, "logit_bias.a", "match pattern"),
    ({"logit_bias": {"5": "a"}}, "logit_bias.5", "valid number"),
    ({"metadata": {"a": 1}}, "metadata.a", "valid string"),
    ({"best_of": 2}, "best_of", "is not supported here"),
]
OTHER_ERRORS = [
    (CompletionRequest, {"prompt": [1, 2, 3]}, "prompt", "token ids are not supported: send the text"),
    (CompletionRequest, {"prompt": [[1, 2]]}, "prompt", "token ids are not supported"),
    (CompletionRequest, {"prompt": ["a"] * 9}, "prompt", "at most 8 items"),
    (CompletionRequest, {"prompt": "a", "n": 9}, "n", "less than or equal to 8"),
    (CompletionRequest, {"prompt": ["a", "b"], "n": 5}, "n", "at most 8 choices"),
    (ResponsesRequest, {"input": [*HI, {"type": "item_reference", "id": "msg_1"}]}, "input.1.type", "'message'"),
    (ResponsesRequest, {"input": "Hi", "previous_response_id": "r"}, "previous_response_id", "is not supported"),
    (ResponsesRequest, {"input": "Hi", "truncation": "left"}, "truncation", "'auto' or 'disabled'"),
    (
        FeedbackRequest,
        {"messages": [*HI, {"role": "user", "content": 1}], "rating": "up"},
        "messages.1.content",
        "string",
    ),
]


@pytest.mark.parametrize(
    ("schema", "fields", "param", "message"),
    [*((ChatRequest, {"messages": HI} | fields, *rest) for fields, *rest in CHAT_ERRORS), *OTHER_ERRORS],
)
def test_the_parameter_is_the_field_that_was_sent(
    schema: type[BaseModel], fields: dict[str, Any], param: str, message: str
) -> None:
    with pytest.raises(ApiError, match=re.escape(message)) as refused:
        validated(schema, json.dumps({"model": "m"} | fields).encode())
    assert (refused.value.status, refused.value.envelope["error"]["param"]) == (400, param)
