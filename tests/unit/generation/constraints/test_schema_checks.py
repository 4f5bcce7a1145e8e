"""Schemas that llguidance would not obey are refused, and no others."""

import json
from collections.abc import Iterator
from typing import Any

import pytest

from convmodel.errors import ConfigError
from convmodel.generation.constraints.checking import Checker
from convmodel.generation.constraints.grammar import read_grammar

ID = 1234567890123456789
LARGEST = 2**63 - 1


@pytest.fixture(scope="module")
def checker() -> Iterator[Checker]:
    checker = Checker()
    yield checker
    checker.close()


MULTIPLES = [
    ([127, 131, 137, 139, 149], False),  # llguidance computes with the product modulo 2**32
    ([*range(2, 122)], False),
    ([65536, 65537], False),
    ([0.0001, 999_983], False),
    ([1e300, 7], False),
    ([0.01, 7, 12], True),
    ([2**16, 2**15], True),
    ([65537], True),
    ([True, "7", -3, 0, 5], True),  # what is no multiple is llguidance's to refuse
]


@pytest.mark.parametrize(("values", "fits"), MULTIPLES)
@pytest.mark.parametrize("form", ["all of", "sibling", "reference"])
def test_multiples_that_overflow_are_refused(values: list[Any], fits: bool, form: str) -> None:
    parts: list[Any] = [{"type": "number", "multipleOf": value} for value in values]
    schema: dict[str, Any] = {"allOf": parts}
    if form == "sibling":
        schema = {**parts[0], "allOf": parts[1:]}
    if form == "reference":
        names = [str(number) for number in range(len(parts))]
        schema = {"$defs": dict(zip(names, parts, strict=True)), "allOf": [{"$ref": f"#/$defs/{n}"} for n in names]}
    if fits:
        assert read_grammar({"json_schema": schema}) is not None
    else:
        with pytest.raises(ConfigError, match="no common multiple up to 4294967295: use fewer or smaller ones"):
            read_grammar({"json_schema": schema})


@pytest.mark.parametrize(
    "schema",
    [
        {"const": ID},
        {"const": {"ids": [1, {"id": ID}]}},
        {"enum": ["a", 2, -ID]},
        {"enum": [2**53 + 1]},
        {"const": 2**63},  # a float64, but written with fewer digits
        {"const": 2**64 - 1},
        {"const": 10**400},
        {"type": "array", "items": {"properties": {"id": {"const": ID}}}},
        {"$ref": "#/$defs/id", "$defs": {"id": {"enum": (ID,)}}},
        {"properties": {"const": {"const": ID}}},
    ],
)
def test_integers_that_would_become_others_are_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"(const|enum) has .*, which would become another number: make it a string"):
        read_grammar({"json_schema": schema})


@pytest.mark.parametrize("value", [2**53, 2**53 + 2, -(2**60), 10**18, 10**22, 1e22, {"id": [2**62, True, str(ID)]}])
def test_integers_that_stay_the_same_are_generated(checker: Checker, value: Any) -> None:
    grammar = read_grammar({"json_schema": {"const": value, "default": ID, "examples": [ID]}})
    assert grammar is not None
    assert json.loads(checker.check(grammar).closing) == value


def test_a_property_may_have_the_name_of_a_keyword() -> None:
    properties = {"const": {"type": "integer", "default": ID}, "enum": {"examples": [ID]}, "minimum": {"default": ID}}
    assert read_grammar({"json_schema": {"type": "object", "properties": properties}}) is not None


@pytest.mark.parametrize(
    "bounds",
    [
        {"minimum": ID},
        {"maximum": ID},
        {"minimum": ID, "maximum": ID + 10},
        {"minimum": LARGEST},
        {"minimum": 2**63, "maximum": 2**64},  # 2**63 - 1 would be generated
        {"minimum": 1e19, "maximum": 1e20},
        {"maximum": -(2**63) - 1},
        {"exclusiveMinimum": 2**53},  # the next integer is no float64
        {"exclusiveMaximum": 2**53 + 2},
        {"exclusiveMaximum": 1e16},
        {"exclusiveMaximum": LARGEST},
        {"type": "number", "maximum": 2**60},  # in ranges of floats, written with fewer digits
        {"type": ["number", "null"], "maximum": 2**64 - 1},
    ],
)
def test_bounds_that_would_become_others_are_refused(bounds: dict[str, Any]) -> None:
    with pytest.raises(
        ConfigError, match=r"imum is .*, which would become another bound: use one from -9007199254740991 "
    ):
        read_grammar({"json_schema": {"type": "integer"} | bounds})


@pytest.mark.parametrize(
    ("bounds", "least"),
    [
        ({"minimum": 2**53 + 2}, 2**53 + 2),
        ({"exclusiveMinimum": 2**53 - 1}, 2**53),
        ({"minimum": 7, "maximum": LARGEST}, 7),
        ({"type": ["integer", "null"], "minimum": 7, "maximum": 2**64 - 1}, 7),
        ({"minimum": 7, "exclusiveMaximum": 2**63}, 7),
        ({"minimum": 7, "maximum": 1e30}, 7),
        ({"minimum": 2**60, "maximum": 2**60}, 2**60),
        ({"type": "number", "minimum": 0.5, "maximum": 10**16}, 0.5),
    ],
)
def test_bounds_are_obeyed(checker: Checker, bounds: dict[str, Any], least: float) -> None:
    grammar = read_grammar({"json_schema": {"type": "integer"} | bounds})
    assert grammar is not None
    value = json.loads(checker.check(grammar).closing)
    assert value is None or least <= value <= bounds.get("maximum", LARGEST)


@pytest.mark.parametrize("value", [2**32, 2**53 + 1, ID])
def test_multiples_of_large_integers_are_refused_by_llguidance(checker: Checker, value: int) -> None:
    grammar = read_grammar({"json_schema": {"type": "integer", "multipleOf": value}})
    assert grammar is not None
    with pytest.raises(ConfigError, match="too many digits"):
        checker.check(grammar)
