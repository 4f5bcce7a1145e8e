"""Calls of tools: their schema, the text of a call in parts, and what describes the functions to the model."""

import itertools
import json
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from convmodel.generation.constraints.constraint import CALL_SPACE
from convmodel.generation.constraints.grammar import read_grammar
from convmodel.server.api.formats import MAX_DEPTH
from convmodel.server.api.tools import CallParts, Function, call_schema, call_text, describe

WEATHER = Function(
    name="weather",
    description="The weather of a city.",
    parameters={
        "type": "object",
        "properties": {
            "city": {"$ref": "#/$defs/city"},
            "kind": {"const": {"$ref": "#"}},
            "default": {"$ref": "#/$defs/city"},
        },
        "required": ["city"],
        "$defs": {"city": {"type": "string"}},
    },
)
NOTHING = Function(name="nothing")
OPEN = Function(name="open", parameters=WEATHER.parameters | {"additionalProperties": True})
NAMES = ["weather", "nothing"]
CALL = '{"name":"weather","arguments":{"city":"a } b"}}'


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        (CALL, True),
        ('{"name":"weather","arguments":{"city":3}}', False),
        ('{"name":"weather","arguments":{}}', False),
        ('{"name":"weather","arguments":{"city":"a","default":"b"}}', True),
        ('{"name":"weather","arguments":{"city":"a","default":3}}', False),
        ('{"name":"other","arguments":{"city":"a"}}', False),
        ('{"name":"nothing","arguments":{}}', True),
        ('{"name":"nothing","arguments":{"a":1}}', False),
        ('{"name":"weather","arguments":{"city":"a","kind":{"$ref":"#"}}}', True),
        ('{"name":"weather","arguments":{"city":"a","invented":1}}', False),
        ('{"name":"open","arguments":{"city":"a","invented":1}}', True),
    ],
)
def test_the_schema_of_a_call(text: str, valid: bool) -> None:
    assert jsonschema_rs.is_valid(call_schema([WEATHER, NOTHING, OPEN]), json.loads(text)) == valid


@pytest.mark.parametrize(
    ("text", "valid"),
    [
        (CALL, True),
        ('{"size":3}', True),
        ('{"size":"a"}', False),
        ('{"size":3,"name":"Ann"}', True),
        ('{"size":3,"arguments":[]}', True),
        ('{"name":"weather","arguments":{"city":3}}', False),
        ('{"name":"weather","arguments":{"city":"a"},"size":3}', False),  # which would be read as a call
    ],
)
def test_the_schema_of_a_call_or_a_response(text: str, valid: bool) -> None:
    response = {
        "type": "object",
        "properties": {"size": {"$ref": "#/$defs/size"}},
        "required": ["size"],
        "$defs": {"size": {"type": "integer"}},
    }
    assert jsonschema_rs.is_valid(call_schema([WEATHER, NOTHING], response), json.loads(text)) == valid


@pytest.mark.parametrize(
    "schema",
    [
        {"$id": "https://example.org/size", "$ref": "#/$defs/size", "$defs": {"size": {"type": "integer"}}},
        {"$ref": "#size", "$defs": {"size": {"$anchor": "size", "type": "integer"}}},
        {"$ref": "size", "$defs": {"size": {"$id": "size", "$ref": "#/$defs/n", "$defs": {"n": {"type": "integer"}}}}},
    ],
)
def test_references_of_a_schema_with_names_are_right_in_a_larger_one(schema: dict[str, Any]) -> None:
    larger = call_schema([WEATHER, Function(name="size", parameters=schema)], schema)
    for value, valid in ((3, True), ("a", False)):
        assert jsonschema_rs.is_valid(larger, value) == valid
        assert jsonschema_rs.is_valid(larger, {"name": "size", "arguments": value}) == valid


def test_the_deepest_schemas_may_be_parts_of_a_larger_one() -> None:
    deepest: dict[str, Any] = {"type": "string"}
    for _ in range(MAX_DEPTH - 1):
        deepest = {"items": deepest}
    function = Function(name="f", parameters=deepest)
    assert read_grammar({"json_schema": call_schema([function], deepest)}) is not None
    with pytest.raises(ValidationError, match=f"more than {MAX_DEPTH} levels deep"):
        Function(name="f", parameters={"items": deepest})


def deltas(pieces: list[str]) -> list[dict[str, Any]]:
    parts = CallParts(NAMES)
    return [*(delta for piece in pieces for delta in parts.add(piece)), *parts.end()]


@given(st.lists(st.integers(0, len(CALL)), max_size=8))
def test_a_call_in_any_pieces_has_its_name_first_and_then_its_arguments(cuts: list[int]) -> None:
    places = [0, *sorted(cuts), len(CALL)]
    [first, *rest] = deltas([CALL[begin:end] for begin, end in itertools.pairwise(places)])
    [call] = first["tool_calls"]
    assert (call["index"], call["type"], call["function"]) == (0, "function", {"name": "weather", "arguments": ""})
    assert call["id"].startswith("call_")
    assert all(delta["tool_calls"][0].keys() == {"index", "function"} for delta in rest)
    arguments = "".join(delta["tool_calls"][0]["function"]["arguments"] for delta in rest)
    assert arguments == '{"city":"a } b"}'


@given(st.lists(st.text(max_size=5), max_size=6).filter(lambda pieces: not "".join(pieces).startswith("{")))
def test_any_other_text_is_content(pieces: list[str]) -> None:
    assert "".join(delta["content"] for delta in deltas(pieces)) == "".join(pieces)


@pytest.mark.parametrize("text", ['{"size":3}', '{"name":"Ann","size":3}', '{"name":"weathers","arguments":{}}', "{}"])
def test_an_object_that_is_not_a_call_is_content(text: str) -> None:
    assert "".join(delta["content"] for delta in deltas([*text])) == text
    assert CallParts.whole(text, NAMES) == {"content": text}


@pytest.mark.parametrize(("text", "rest"), [('{"name":"wea', '{"name":"wea'), ("Hello", ""), (CALL, ""), ("", "")])
def test_the_end_is_what_was_held_back(text: str, rest: str) -> None:
    parts = CallParts(NAMES)
    assert ("content" in str([*parts.add(text)])) == (text == "Hello")
    assert "".join(delta["content"] for delta in parts.end()) == rest


def test_a_whole_text_is_content_or_a_call() -> None:
    assert CallParts.whole("Hello", NAMES) == {"content": "Hello"}
    assert CallParts.whole("", NAMES) == {"content": ""}
    assert CallParts.whole(" {", NAMES) == {"content": " {"}
    message = CallParts.whole(f" {CALL}", NAMES)
    assert message["content"] is None
    assert message["tool_calls"][0]["function"] == {"name": "weather", "arguments": '{"city":"a } b"}'}


@pytest.mark.parametrize(
    ("space", "is_call"),
    [(" ", True), ("\n", True), ("\r\n\t ", True), ("\x0b", False), ("\xa0", False), ("\u2028", False)],
)
def test_white_space_before_a_call_is_what_may_come_before_one(space: str, is_call: bool) -> None:
    assert is_call == all(character in CALL_SPACE for character in space)
    parts = deltas([*space, *CALL])
    assert ("tool_calls" in parts[0], "content" in parts[0]) == (is_call, not is_call)
    assert ("tool_calls" in CallParts.whole(space + CALL, NAMES)) == is_call
    assert CallParts.whole(f"{space}Hi", NAMES) == {"content": f"{space}Hi"}


def test_a_call_is_written_as_it_is_generated() -> None:
    assert call_text("weather", '{"city":"a } b"}') == CALL


def test_the_description_names_all_functions() -> None:
    text = describe([WEATHER, NOTHING])
    first, second = map(json.loads, text.splitlines()[1:])
    assert first["description"] == "The weather of a city."
    assert first["parameters"] == WEATHER.parameters
    assert second["name"] == "nothing"
