"""Responses that obey a schema, over HTTP: valid JSON, or refused before the first token."""

import json
from typing import Any

import jsonschema_rs
import openai
import pytest
from pydantic import BaseModel
from serving import HELLO, Serving

from convmodel.server.api.formats import MAX_DEPTH
from convmodel.server.settings import MAX_BODY

pytestmark = pytest.mark.loopback

PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "tags": {"type": "array", "items": {"type": "string"}}},
    "required": ["name", "tags"],
    "additionalProperties": False,
}
FORMAT = {"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}}
GOOD: dict[str, Any] = {"model": "tiny", "messages": HELLO, "max_completion_tokens": 40, "seed": 1}
NESTED: Any = {"type": "string"}
for _ in range(60):
    NESTED = {"type": "array", "items": NESTED}


class Person(BaseModel):
    name: str
    tags: list[str]


def valid(text: str | None) -> str:
    assert text is not None
    jsonschema_rs.validate(PERSON, json.loads(text))
    return text


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tiny", "plain"])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_response_obeys_its_schema_whole_and_streamed(server: Serving, name: str, seed: int) -> None:
    body = GOOD | {"model": name, "seed": seed, "n": 2, "response_format": FORMAT}
    answer = server.post("/v1/chat/completions", **body)
    assert answer.status == 200, answer.body
    texts = [valid(choice["message"]["content"]) for choice in answer.json["choices"]]
    assert [choice["finish_reason"] for choice in answer.json["choices"]] == ["stop", "stop"]

    streamed = ["", ""]
    for event in server.post("/v1/chat/completions", **body, stream=True).events[:-1]:
        for choice in event["choices"]:
            streamed[choice["index"]] += choice["delta"].get("content", "")
    assert streamed == texts


@pytest.mark.slow
def test_a_json_object_is_any_object(server: Serving) -> None:
    for seed in range(3):
        body = GOOD | {"seed": seed, "response_format": {"type": "json_object"}, "temperature": 1.5}
        [choice] = server.post("/v1/chat/completions", **body).json["choices"]
        assert isinstance(json.loads(choice["message"]["content"]), dict)
        assert choice["finish_reason"] == "stop"


def test_text_is_any_text(server: Serving) -> None:
    plain = server.post("/v1/chat/completions", **GOOD).json["choices"]
    assert server.post("/v1/chat/completions", **GOOD, response_format={"type": "text"}).json["choices"] == plain


@pytest.mark.slow
def test_the_client_parses_a_response_into_a_class(server: Serving) -> None:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key="none", max_retries=0) as client:
        asked: Any = {"model": "tiny", "messages": HELLO, "response_format": Person, "max_completion_tokens": 40}
        parsed = client.chat.completions.parse(**asked).choices[0].message.parsed
        assert isinstance(parsed, Person)
        with client.chat.completions.stream(**asked) as stream:
            assert isinstance(stream.get_final_completion().choices[0].message.parsed, Person)
        response = client.responses.parse(model="tiny", input="Hello", text_format=Person, max_output_tokens=40)
        assert isinstance(response.output_parsed, Person)


def test_responses_have_the_format_that_was_requested(server: Serving) -> None:
    form = {"type": "json_schema", "name": "person", "schema": PERSON}
    body = {"model": "tiny", "input": "Hello", "max_output_tokens": 40, "text": {"format": form}}
    answer = server.post("/v1/responses", **body)
    assert answer.status == 200, answer.body
    valid(answer.json["output"][0]["content"][0]["text"])
    assert answer.json["status"] == "completed"
    assert answer.json["text"]["format"]["schema"] == PERSON
    assert answer.json["text"]["format"]["name"] == "person"
    text = "".join(
        event["delta"]
        for event in server.post("/v1/responses", **body, stream=True).events
        if event["type"] == "response.output_text.delta"
    )
    valid(text)


def of(schema: Any, name: str = "x") -> dict[str, Any]:
    return {"response_format": {"type": "json_schema", "json_schema": {"name": name, "schema": schema}}}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "param", "message"),
    [
        (of({"type": "wibble"}), "response_format", "response_format cannot be used: Invalid type: wibble"),
        (of({"type": "string", "minLength": 9, "maxLength": 1}), "response_format", "Unsatisfiable schema"),
        (of({"$ref": "#"}), "response_format", "response_format cannot be used"),
        (of({"not": {}}), "response_format", "Unimplemented keys"),
        (of({"enum": ["a" * 300_000]}), "response_format", "characters"),
        (of({"allOf": [{"pattern": f"^.*[a-m]{{{n}}}.*$"} for n in range(60)]}), "response_format", "too complex"),
        (of({"type": "max_new_tokens"}), "response_format", "response_format cannot be used: Invalid type: max_new_"),
        (of(3), "response_format.json_schema.schema", "dictionary"),
        ({"response_format": {"type": "yaml"}}, "response_format", "yaml"),
        ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "required"),
        (of({}, name="a b"), "response_format.json_schema.name", ""),
        ({"response_format": {"type": "text", "x": 1}}, "response_format.x", "not supported"),
        ({"response_format": FORMAT, "max_completion_tokens": 5}, "max_completion_tokens", "tokens is 5"),
        ({"response_format": FORMAT, "stop": "}"}, "stop", "stop could end what response_format requires"),
    ],
)  # fmt: skip
def test_a_schema_that_cannot_be_obeyed_is_refused(
    server: Serving, change: dict[str, Any], param: str, message: str
) -> None:
    for stream in (False, True):
        answer = server.post("/v1/chat/completions", **(GOOD | change), stream=stream)
        assert answer.status == 400, answer.body
        assert (answer.error["param"] or "").startswith(param)
        assert message in answer.error["message"]
    assert server.post("/v1/chat/completions", **GOOD).status == 200


def test_responses_name_their_own_parameters(server: Serving) -> None:
    body = {"model": "tiny", "input": "Hello"}
    bad = {"format": {"type": "json_schema", "name": "x", "schema": {"type": "wibble"}}}
    answer = server.post("/v1/responses", **body, text=bad)
    assert (answer.status, answer.error["param"]) == (400, "text.format")
    assert answer.error["message"].startswith("text.format cannot be used")
    few = {"format": {"type": "json_schema", "name": "x", "schema": PERSON}}
    answer = server.post("/v1/responses", **body, text=few, max_output_tokens=5)
    assert (answer.status, answer.error["param"]) == (400, "max_output_tokens")


def test_responses_say_where_tools_are_supported(server: Serving) -> None:
    answer = server.post("/v1/responses", model="tiny", input="Hello", tools=[{"type": "web_search"}])
    assert (answer.status, answer.error["param"], answer.error["code"]) == (400, "tools", "unsupported_parameter")
    assert answer.error["message"] == "tools are not supported here: use /v1/chat/completions"
    assert server.post("/v1/responses", model="tiny", input="Hello", tools=[]).status == 200


def test_deep_and_large_schemas_are_answered(server: Serving) -> None:
    assert server.post("/v1/chat/completions", **(GOOD | of(NESTED))).status == 200
    assert server.post("/v1/chat/completions", **(GOOD | of({"enum": ["a" * MAX_BODY]}))).status == 413


@pytest.mark.parametrize("depth", [MAX_DEPTH, MAX_DEPTH + 1, 450, 900])
@pytest.mark.parametrize("place", ["response_format", "tools", "both", "responses"])
def test_a_schema_is_used_or_refused_however_deep_it_is(server: Serving, place: str, depth: int) -> None:
    schema: Any = {"type": "string"}
    for _ in range(depth - 1):
        schema = {"items": schema}
    body = GOOD | {"model": "plain"}
    if place in ("tools", "both"):
        tools = [{"type": "function", "function": {"name": "f", "parameters": schema}}]
        body |= {"tools": tools, "tool_choice": "required"}
    if place in ("response_format", "both"):
        body |= of(schema)
    if place == "responses":
        form = {"type": "json_schema", "name": "x", "schema": schema}
        answer = server.post("/v1/responses", model="plain", input="Hello", text={"format": form})
    else:
        answer = server.post("/v1/chat/completions", **body)
    if depth <= MAX_DEPTH:
        assert answer.status == 200, answer.body
    else:
        assert (answer.status, answer.error["type"]) == (400, "invalid_request_error")
        assert answer.error["message"].endswith("is nested more than 100 levels deep: flatten it, or use $ref")


def test_without_llguidance_only_schemas_are_refused(server: Serving, monkeypatch: pytest.MonkeyPatch) -> None:
    from convmodel.errors import MissingExtraError
    from convmodel.generation.constraints import grammar

    def missing() -> Any:
        raise MissingExtraError("json_schema needs llguidance", "serve")

    monkeypatch.setattr(grammar, "llguidance", missing)
    answer = server.post("/v1/chat/completions", **GOOD, response_format=FORMAT)
    assert (answer.status, answer.error["param"]) == (400, "response_format")
    assert answer.error["message"] == "response_format needs llguidance, which this server does not have: leave it out"
    assert server.post("/v1/chat/completions", **GOOD).status == 200
