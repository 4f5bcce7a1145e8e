"""Tools over HTTP: calls in OpenAI's form, forced or chosen by the model, and their results in the history."""

import json
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import openai
import pytest
from scripted import scripted
from serving import HELLO, Serving, serving

from convmodel import ConversationModel

pytestmark = pytest.mark.loopback

PARAMETERS: dict[str, Any] = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1, "maximum": 9}},
    "required": ["city", "days"],
    "additionalProperties": False,
}
WEATHER = {"type": "function", "function": {"name": "weather", "description": "Forecast", "parameters": PARAMETERS}}
CLOCK = {"type": "function", "function": {"name": "clock"}}
TOOLS = [WEATHER, CLOCK]
NAMED = {"type": "function", "function": {"name": "weather"}}
GOOD: dict[str, Any] = {"model": "tiny", "messages": HELLO, "max_completion_tokens": 60, "seed": 1}
NUMBER = {
    "type": "object",
    "properties": {"of": {"type": "integer"}},
    "required": ["of"],
    "additionalProperties": False,
}
SQUARE = {"type": "function", "function": {"name": "square", "parameters": NUMBER}}
CALL = '{"name":"square","arguments":{"of":12}}'
CALL_LIKE = {"type": "object", "required": ["name", "arguments"]}


def formatted(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "json_schema", "json_schema": {"name": "schema", "schema": schema}}


@pytest.fixture(scope="module")
def open_server(served_models: dict[str, ConversationModel]) -> Iterator[Serving]:
    """A server that takes system messages."""
    with serving(served_models, system_messages=True) as served:
        yield served


def called(function: dict[str, str]) -> str:
    arguments = json.loads(function["arguments"])
    if function["name"] == "weather":
        jsonschema_rs.validate(PARAMETERS, arguments)
    else:
        assert (function["name"], arguments) == ("clock", {})
    return function["name"]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", "plain"])
@pytest.mark.parametrize("choice", ["required", NAMED])
def test_a_call_that_must_be_made_is_made_whole_and_streamed(server: Serving, name: str, choice: Any) -> None:
    names = set()
    for seed in range(3):
        body = GOOD | {"model": name, "seed": seed, "tools": TOOLS, "tool_choice": choice, "n": 2}
        answer = server.post("/v1/chat/completions", **body)
        assert answer.status == 200, answer.body
        calls = []
        for response in answer.json["choices"]:
            assert response["finish_reason"] == "tool_calls"
            assert response["message"]["content"] is None
            [call] = response["message"]["tool_calls"]
            names.add(called(call["function"]))
            calls.append(call["function"])
        assert streamed(server, body) == calls
    assert "weather" in names
    if choice == NAMED:
        assert names == {"weather"}


def streamed(server: Serving, body: dict[str, Any]) -> list[dict[str, str]]:
    functions: list[dict[str, str]] = [{"name": "", "arguments": ""} for _ in range(body.get("n", 1))]
    reasons = []
    for event in server.post("/v1/chat/completions", **body, stream=True).events[:-1]:
        [choice] = event["choices"]
        assert not choice["delta"].get("content")
        for call in choice["delta"].get("tool_calls", []):
            assert call["index"] == 0
            assert ("id" in call) == ("name" in call["function"])
            for field, text in call["function"].items():
                functions[choice["index"]][field] += text
        reasons += [choice["finish_reason"]] if choice["finish_reason"] else []
    assert reasons == ["tool_calls"] * len(functions)
    return functions


def test_the_client_assembles_a_streamed_call(server: Serving) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        asked: Any = {"tools": [WEATHER], "tool_choice": "required", "max_completion_tokens": 60}
        with client.chat.completions.stream(model="tiny", messages=HELLO, **asked) as stream:
            message = stream.get_final_completion().choices[0].message
        assert message.tool_calls is not None
        called(message.tool_calls[0].function.model_dump())


@pytest.mark.parametrize("stream", [False, True])
def test_the_model_chooses_between_text_and_a_call(open_server: Serving, stream: bool) -> None:
    model = open_server.model()
    body = GOOD | {"tools": [SQUARE], "temperature": 0, "max_completion_tokens": 30}
    with scripted(model, "Hello there", CALL) as script:
        if stream:
            events = open_server.post("/v1/chat/completions", **body, stream=True).events[:-1]
            assert "".join(event["choices"][0]["delta"].get("content", "") for event in events) == "Hello there"
            assert events[-1]["choices"][0]["finish_reason"] == "stop"
            assert streamed(open_server, body) == [{"name": "square", "arguments": '{"of":12}'}]
        else:
            [text] = open_server.post("/v1/chat/completions", **body).json["choices"]
            assert (text["message"]["content"], text["finish_reason"]) == ("Hello there", "stop")
            assert "tool_calls" not in text["message"]
            [call] = open_server.post("/v1/chat/completions", **body).json["choices"]
            assert call["finish_reason"] == "tool_calls"
            assert call["message"]["tool_calls"][0]["function"] == {"name": "square", "arguments": '{"of":12}'}
    assert '"square"' in model.tokenizer.decode(script.prompts[0])


def test_a_call_that_the_model_begins_obeys_the_schema(open_server: Serving) -> None:
    body = GOOD | {"tools": [SQUARE], "temperature": 0, "max_completion_tokens": 30}
    with scripted(open_server.model(), '{"weather": "sunny"}'):
        [choice] = open_server.post("/v1/chat/completions", **body).json["choices"]
    [call] = choice["message"]["tool_calls"]
    assert call["function"]["name"] == "square"
    jsonschema_rs.validate(NUMBER, json.loads(call["function"]["arguments"]))


@pytest.mark.parametrize("stream", [False, True])
def test_a_response_is_a_call_or_obeys_the_response_format(open_server: Serving, stream: bool) -> None:
    schema = {"type": "object", "properties": {"name": {"type": "string"}, "size": NUMBER}, "required": ["name"]}
    body = GOOD | {"tools": [SQUARE], "response_format": formatted(schema), "temperature": 0, "stream": stream}
    body["max_completion_tokens"] = 40
    text = '{"name":"square"}'  # which begins as a call
    with scripted(open_server.model(), text, CALL, "Hello there"):
        answers = [open_server.post("/v1/chat/completions", **body) for _ in range(3)]
    if stream:
        choices = [[event["choices"][0] for event in answer.events[:-1]] for answer in answers]
        contents = ["".join(choice["delta"].get("content") or "" for choice in stream) for stream in choices]
        called = [any("tool_calls" in choice["delta"] for choice in stream) for stream in choices]
        reasons = [stream[-1]["finish_reason"] for stream in choices]
    else:
        choices = [answer.json["choices"][0] for answer in answers]
        contents = [choice["message"]["content"] for choice in choices]
        called = ["tool_calls" in choice["message"] for choice in choices]
        reasons = [choice["finish_reason"] for choice in choices]
    assert called[:2] == [False, True]
    assert contents[0] == text
    assert not contents[1]
    assert reasons == ["tool_calls" if call else "stop" for call in called]
    if not called[2]:  # it was made to fit
        jsonschema_rs.validate(schema, json.loads(contents[2]))


@pytest.mark.parametrize("text", ['{"name":"square","arguments":[1],"x":1}', '{"name":"square","arguments":5}'])
def test_nothing_but_a_call_looks_like_one(open_server: Serving, text: str) -> None:
    body = GOOD | {"tools": [SQUARE], "response_format": {"type": "json_object"}, "temperature": 0}
    body["max_completion_tokens"] = 40
    with scripted(open_server.model(), text):
        [choice] = open_server.post("/v1/chat/completions", **body).json["choices"]
    for call in choice["message"].get("tool_calls", ()):
        jsonschema_rs.validate(NUMBER, json.loads(call["function"]["arguments"]))
    if choice["message"]["content"] is not None:
        assert not {"name", "arguments"} <= json.loads(choice["message"]["content"]).keys()


def test_a_call_that_is_required_need_not_obey_the_response_format(server: Serving) -> None:
    body = GOOD | {"tools": TOOLS, "tool_choice": "required", "response_format": {"type": "json_object"}}
    [choice] = server.post("/v1/chat/completions", **body).json["choices"]
    assert choice["finish_reason"] == "tool_calls"


def test_earlier_calls_and_results_are_turns(open_server: Serving) -> None:
    history = [
        *HELLO,
        {"role": "assistant", "content": None, "tool_calls": [
            {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Kyoto"}'}}]},
        {"role": "tool", "tool_call_id": "call_1", "content": "rain"},
    ]  # fmt: skip
    model = open_server.model()
    with scripted(model, "It rains.") as script:
        body = GOOD | {"messages": history, "tools": TOOLS, "tool_choice": "none", "temperature": 0}
        [choice] = open_server.post("/v1/chat/completions", **body).json["choices"]
    assert choice["message"]["content"] == "It rains."
    turns = ["Hello", '{"name":"weather","arguments":{"city": "Kyoto"}}', "rain"]
    assert script.prompts == [model.tokenizer(turns)["input_ids"]]


def test_a_model_without_system_messages_cannot_choose(server: Serving) -> None:
    answer = server.post("/v1/chat/completions", **GOOD, tools=TOOLS)
    assert (answer.status, answer.error["param"]) == (400, "tool_choice")
    assert 'give tool_choice "required"' in answer.error["message"]
    assert server.post("/v1/chat/completions", **GOOD, tools=TOOLS, tool_choice="none").status == 200


@pytest.mark.parametrize(
    ("change", "param", "message"),
    [
        ({"tools": [{"type": "web_search"}]}, "tools.0", ""),
        ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools.0.function.name", "pattern"),
        ({"tools": [CLOCK, CLOCK]}, "tools", "tools has two functions of one name"),
        ({"tool_choice": "required"}, "tool_choice", "tool_choice needs a function"),
        ({"tools": [CLOCK], "tool_choice": NAMED}, "tool_choice", "tool_choice needs a function"),
        ({"tools": [CLOCK], "tool_choice": "any"}, "tool_choice", "'required'"),
        ({"tools": [CLOCK], "tool_choice": {"type": "allowed_tools"}}, "tool_choice.type", "function"),
        ({"tools": TOOLS, "response_format": formatted({"$ref": "#/$defs/a"})}, "response_format", "does not exist"),
        (
            {"tools": TOOLS, "response_format": formatted(CALL_LIKE)},
            "response_format",
            "'arguments' is unsatisfiable",
        ),
        (
            {"tools": TOOLS, "tool_choice": "required", "response_format": formatted({"$ref": "other.json"})},
            "response_format",
            "cannot be used",
        ),
        ({"tools": TOOLS, "tool_choice": "required", "max_completion_tokens": 4}, "max_completion_tokens", "is 4"),
        ({"tools": TOOLS, "tool_choice": "required", "stop": "a"}, "stop", "stop could end what tools requires"),
        (
            {"tools": [{"type": "function", "function": {"name": "f", "parameters": {"not": {}}}}],
             "tool_choice": "required"},
            "tools", "tools cannot be used: Unimplemented keys",
        ),
        ({"messages": [*HELLO, {"role": "assistant", "tool_calls": [
            {"id": "1", "function": {"name": "f", "arguments": "{"}}]}]},
         "messages.1.tool_calls.0.function.arguments", "JSON object"),
        ({"messages": [*HELLO, {"role": "assistant"}]}, "messages.1.content", "required"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_by_name(
    server: Serving, change: dict[str, Any], param: str, message: str
) -> None:
    answer = server.post("/v1/chat/completions", **(GOOD | change))
    assert answer.status == 400, answer.body
    assert (answer.error["param"] or "").startswith(param)
    assert message in answer.error["message"]
