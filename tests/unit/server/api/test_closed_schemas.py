"""Closing the objects of a schema: which are closed, and that nothing is allowed that was not."""

import itertools
import json
from typing import Any

import jsonschema_rs
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from json_schemas import hostile_schemas

from convmodel.server.api.closed_schemas import closed

LISTED = {"type": "object", "properties": {"a": {"type": "integer"}}}
CLOSED = LISTED | {"additionalProperties": False}


@pytest.mark.parametrize(
    ("schema", "expected"),
    [
        (LISTED, CLOSED),
        ({"type": "array", "items": LISTED}, {"type": "array", "items": CLOSED}),
        ({"properties": {"properties": LISTED}}, {"properties": {"properties": CLOSED}, "additionalProperties": False}),
        ({"anyOf": [LISTED, {"type": "null"}]}, {"anyOf": [CLOSED, {"type": "null"}]}),
        ({"$ref": "#/$defs/x", "$defs": {"x": LISTED}}, {"$ref": "#/$defs/x", "$defs": {"x": CLOSED}}),
        ({"prefixItems": [LISTED], "default": LISTED}, {"prefixItems": [CLOSED], "default": LISTED}),
    ],
)
def test_objects_that_list_their_properties_are_closed(schema: Any, expected: Any) -> None:
    assert closed(schema) == expected


@pytest.mark.parametrize(
    "schema",
    [
        {"type": "object"},
        LISTED | {"additionalProperties": {"type": "string"}},
        LISTED | {"patternProperties": {"b": {}}},
        LISTED | {"propertyNames": {"maxLength": 3}},
        LISTED | {"required": ["b"]},
        LISTED | {"minProperties": 2},
        LISTED | {"anyOf": [{"properties": {"b": {}}}]},
        LISTED | {"$ref": "#/$defs/x", "$defs": {"x": {"properties": {"b": {}}}}},
        {"required": ["a", "b"], "anyOf": [LISTED, {"properties": {"b": {}}}]},
        {"required": ["b"], "anyOf": [{"$ref": "#/$defs/x"}], "$defs": {"x": LISTED}},
        {"required": ["b"], "$ref": "#/$defs/x", "$defs": {"x": LISTED}},
        {"minProperties": 2, "$ref": "#/$defs/x", "$defs": {"x": LISTED}},
        {"$ref": "#/$defs", "$defs": {"not": LISTED}},
        {"$ref": "#x", "$defs": {"x": LISTED | {"$anchor": "x"}}},
        LISTED | {"const": {"a": 1, "b": 2}},
        LISTED | {"enum": [{"a": 1, "b": 2}]},
        {"properties": {"a": False}, "minProperties": 1},
        {"items": LISTED, "uniqueItems": True, "minItems": 2},
        {"properties": ["a"], "required": 3},
        {"allOf": [LISTED, {"properties": {"b": {}}}]},
        {"items": {"oneOf": [LISTED, {"properties": {"b": {}}}]}},
        {"not": LISTED},
        {"if": LISTED, "then": LISTED},
        {"contains": LISTED, "maxContains": 1},
        True,
        [],
    ],
)
def test_other_schemas_stay_as_they_are(schema: Any) -> None:
    assert closed(schema) == schema


def objects(fields: list[Any]) -> list[Any]:
    """All objects with some of the fields `a` and `b`."""
    both = [{"a": a, "b": b} for a, b in itertools.product(fields, repeat=2)]
    return [{}, *({name: value} for name in "ab" for value in fields), *both]


SCALARS = [0, "x", None]
OBJECTS = objects(SCALARS + objects(SCALARS))
FIELDS = st.lists(st.sampled_from("ab"), min_size=1, unique=True)
TO_X = st.just({"$ref": "#/$defs/x"})


def combined(inner: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    """An object, alone or beside something else that concerns it, or a schema made of others."""
    either = inner | TO_X
    listed = st.fixed_dictionaries({"properties": st.dictionaries(st.sampled_from("ab"), either, min_size=1)})
    some = st.lists(either, min_size=1, max_size=2)
    beside = st.one_of(
        st.fixed_dictionaries({"required": FIELDS}),
        st.fixed_dictionaries({"minProperties": st.integers(0, 2)}),
        st.just({"enum": [{"a": 0, "b": 0}, {"b": "x"}]}),
        st.fixed_dictionaries({"additionalProperties": either}),
        *(st.fixed_dictionaries({keyword: some}) for keyword in ("anyOf", "oneOf", "allOf")),
        st.fixed_dictionaries({"not": either}),
        TO_X,
    )
    return listed | st.tuples(listed | beside, beside).map(lambda parts: parts[0] | parts[1])


SMALL = st.recursive(st.sampled_from([{}, {"type": "integer"}, {"type": "string"}]), combined, max_leaves=4)


@pytest.mark.slow
@given(combined(SMALL), combined(st.sampled_from([{}, {"type": "integer"}])))
@settings(max_examples=1000, suppress_health_check=[*HealthCheck])
def test_nothing_is_allowed_that_was_not_and_something_is_if_something_was(schema: Any, definition: Any) -> None:
    schema = schema | {"$defs": {"x": {"type": "integer"} if "#/$defs/x" in json.dumps(definition) else definition}}
    before, after = (jsonschema_rs.validator_for(each) for each in (schema, closed(schema)))
    assert all(before.is_valid(value) for value in SCALARS if after.is_valid(value))
    allowed, left = ([validator.is_valid(value) for value in OBJECTS] for validator in (before, after))
    assert all(earlier for earlier, later in zip(allowed, left, strict=True) if later)
    assert any(left) == any(allowed)


@pytest.mark.parametrize("family", ["properties", "nested objects", "anyOf"])
def test_hostile_schemas_stay_as_they_are_or_are_closed(family: str) -> None:
    [schema] = [schema for name, schema in hostile_schemas(sizes=[40]) if name == f"{family} 40"]
    assert (closed(schema) != schema) == (family == "properties")
