"""Short ways to the end: they exist wherever a person sees one, and they match."""

import json
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given, settings
from json_schemas import SCHEMAS

from convmodel.errors import ConfigError
from convmodel.generation.constraints.closing import Steps, find_closing, in_json
from convmodel.generation.constraints.grammar import read_grammar
from convmodel.generation.constraints.matching import make_matcher, make_tokenizer

BYTES = make_tokenizer([*(bytes([byte]) for byte in range(256)), b""], 256, list)

TREE = {
    "$ref": "#/$defs/node",
    "$defs": {
        "node": {
            "anyOf": [
                {"type": "object", "properties": {"a": {"$ref": "#/$defs/node"}}, "required": ["a"]},
                {"type": "object", "properties": {"b": {"const": "leaf"}}, "required": ["b"]},
            ]
        }
    },
}


def closing(read: bytes = b"", limit: int = 500, literals: tuple[bytes, ...] = (), **options: Any) -> bytes | None:
    grammar = read_grammar(options)
    assert grammar is not None
    matcher = make_matcher(BYTES, grammar.text)
    assert matcher.consume_tokens([*read])
    is_json = "json_schema" in options
    return find_closing(matcher, range(256), limit=limit, literals=literals, is_json=is_json, most=1000)


@pytest.mark.parametrize(
    ("read", "schema", "shortest"),
    [
        (b"", {"type": "string"}, b'""'),
        (b'"Hel', {"type": "string"}, b'"'),
        (b'"\xe3\x81', {"type": "string"}, None),
        (b'{"a":[[', {"type": "object"}, b"]]}"),
        (b"[1", {"type": "array"}, b"]"),
        (b"", {"type": "string", "minLength": 100}, None),
        (b"", {"type": "array", "items": {"type": "null"}, "minItems": 3}, b"[null,null,null]"),
        (b"", TREE, b'{"b":"leaf"}'),
    ],
)
def test_a_value_is_closed(read: bytes, schema: Any, shortest: bytes | None) -> None:
    text = closing(read, json_schema=schema)
    assert text is not None
    assert shortest is None or text == shortest
    jsonschema_rs.validate(schema, json.loads((read + text).decode()))


@pytest.mark.parametrize(
    ("literals", "pattern"),
    [
        ((), "[0-9]{3}-[a-z]+"),
        ((b"@", b"com"), ".*@.*com"),
        ((), "(yes|no), because .{20}"),
        ((), "a*"),
    ],
)
def test_a_pattern_is_completed(literals: tuple[bytes, ...], pattern: str) -> None:
    text = closing(regex=pattern, literals=literals)
    assert text is not None
    grammar = read_grammar({"regex": pattern})
    assert grammar is not None
    matcher = make_matcher(BYTES, grammar.text)
    assert matcher.consume_tokens([*text]) or not text
    assert matcher.is_accepting()


@pytest.mark.slow
def test_what_has_no_end_has_no_closing() -> None:
    assert closing(grammar='start: "a" start') is None
    assert closing(json_schema={"type": "string", "minLength": 100}, limit=50) is None


def test_the_matcher_stays_as_it_is() -> None:
    grammar = read_grammar({"json_schema": {"type": "object"}})
    assert grammar is not None
    matcher = make_matcher(BYTES, grammar.text)
    find_closing(matcher, range(256), limit=100)
    assert matcher.consume_token(ord("{"))


def test_examples_are_escaped() -> None:
    assert in_json(b'a"b\\') == rb"a\"b\\"


def test_steps_bound_the_search_and_are_reduced() -> None:
    grammar = read_grammar({"json_schema": {"type": "array", "items": {"type": "null"}, "minItems": 3}})
    assert grammar is not None
    matcher = make_matcher(BYTES, grammar.text)
    steps = Steps(1000)
    assert find_closing(matcher, range(256), limit=100, steps=steps) == b"[null,null,null]"
    taken = 1000 - steps.left
    assert taken > 0
    assert find_closing(matcher, range(256), limit=100, steps=Steps(taken)) == b"[null,null,null]"
    assert find_closing(matcher, range(256), limit=100, steps=Steps(taken // 2)) is None
    assert find_closing(matcher, range(256), limit=100, steps=Steps(0)) is None


def test_drawn_schemas_are_closed() -> None:
    closed: list[bool] = []

    @settings(max_examples=25, deadline=None)
    @given(SCHEMAS)
    def check(schema: Any) -> None:
        try:
            text = closing(json_schema=schema, literals=(b"b", b"xy", b"Aa", b"a@a.com"))
        except ConfigError:
            closed.append(False)
            return  # it contradicts itself
        assert text is not None
        jsonschema_rs.validate(schema, json.loads(text))
        closed.append(True)

    check()
    assert sum(closed) > len(closed) / 2
