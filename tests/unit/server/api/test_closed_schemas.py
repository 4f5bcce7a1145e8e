"""Closing the objects of a schema: which are closed, and that nothing is allowed that was not."""

from typing import Any

import jsonschema_rs
import pytest
from hypothesis import given
from hypothesis import strategies as st
from json_schemas import NAMES, SCHEMAS, hostile_schemas

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


_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(NAMES), inner, max_size=3),
)


@given(SCHEMAS, _VALUES)
def test_nothing_is_allowed_that_was_not(schema: dict[str, Any], value: Any) -> None:
    if jsonschema_rs.is_valid(closed(schema), value):
        assert jsonschema_rs.is_valid(schema, value)


def test_hostile_schemas_are_closed_or_stay_as_they_are() -> None:
    assert {closed(schema) == schema for _, schema in hostile_schemas(sizes=[1, 30])} == {True, False}
