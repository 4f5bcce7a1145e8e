"""Schemas that llguidance would not obey are refused, and no others."""

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest

from convmodel.errors import ConfigError
from convmodel.generation.constraints.checking import Checker
from convmodel.generation.constraints.grammar import read_grammar
from convmodel.generation.constraints.matching import make_matcher, make_tokenizer

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


def accepts(schema: Any, text: str) -> bool:
    grammar = read_grammar({"json_schema": schema})
    assert grammar is not None
    tokenizer = make_tokenizer([*(bytes([byte]) for byte in range(256)), b""], 256, list)
    matcher = make_matcher(tokenizer, grammar.text)
    return bool(matcher.consume_tokens([*text.encode()]) and matcher.is_accepting())


OPEN = {"type": "object", "properties": {"a/b": {"type": "integer"}, "é\n": {"type": "integer"}}, "required": ["a/b"]}


@pytest.mark.parametrize(
    ("text", "is_legal"),
    [
        ('{"a/b":1,"x":"y"}', True),
        ('{"a/b":1,"é\\n":2,"\\"\\\\\\t":"y"}', True),
        ('{"a/b":1,"é\\n":"y"}', False),
        ('{"a/b":1,"\\u00e9\\n":"y"}', False),
        ('{"a/b":1,"\\u0061/b":"y"}', False),
        ('{"a/b":1,"a\\/b":"y"}', False),
    ],
)
def test_a_name_has_one_form_so_no_other_property_overrides_one(text: str, is_legal: bool) -> None:
    assert accepts(OPEN, text) == is_legal


@pytest.mark.parametrize("content", ["", "a\n\tb", '"\\/\b\f\r', "é\x80\u2028\ufeff\U0001f600"])
def test_texts_have_short_escapes_only(content: str) -> None:
    text = json.dumps(content, ensure_ascii=False)
    for schema in ({"type": "string"}, {"const": content}, {"enum": ["a", content]}, {"pattern": "^[^\\x00-\\x07]*$"}):
        assert accepts({"type": "string"} | schema, text)
    assert not accepts({"type": "string"}, '"\\u0041"')
    assert not accepts({"type": "string"}, '"\\u0001"')


def test_a_declared_name_may_have_control_characters() -> None:
    schema = {"type": "object", "properties": {"a\x01": {"type": "integer"}}, "required": ["a\x01"]}
    assert accepts(schema, '{"a\\u0001":1,"b":2}')
    assert not accepts(schema, '{"a\\u0001":1,"b\\u0001":2}')


@pytest.mark.parametrize(
    ("schema", "code"),
    [
        ({"const": "a\x01"}, "0001"),
        ({"const": {"a": ["\x7f"]}}, "007F"),
        ({"enum": ["a", "\x1b[0m"]}, "001B"),
        ({"pattern": "^a\x0bb$"}, "000B"),
        ({"pattern": r"^a\x01?b$"}, "0001"),
        ({"pattern": r"^\u{1F}|a$"}, "001F"),
        ({"pattern": r"^\u0002$"}, "0002"),
        ({"pattern": r"^\U00000003$"}, "0003"),
        ({"pattern": r"\v"}, "000B"),
        ({"pattern": r"^[\a]$"}, "0007"),
        ({"pattern": r"^[\x01-\x01]$"}, "0001"),
        ({"patternProperties": {r"^\x00": {}}}, "0000"),
    ],
)
def test_control_characters_that_would_be_left_out_are_refused(schema: dict[str, Any], code: str) -> None:
    with pytest.raises(ConfigError, match=rf"has the control character U\+{code}, which is never generated: leave it"):
        read_grammar({"json_schema": schema})


@pytest.mark.parametrize(
    "pattern",
    [
        r"^[^\x00-\x1f\x7f]{1,9}$",
        r"^[\x00-\x7f]+$",
        r"^[ \t\n\v\f\r]*x$",
        r"^[^\x00]$",
        r"^\\x01$",
        r"^\t\r\n\f$",
        r"^\[\]\x41\x{1F600}]?$",
        r"^[[:cntrl:]]?$",
    ],
)
def test_patterns_that_exclude_control_characters_are_used(checker: Checker, pattern: str) -> None:
    grammar = read_grammar({"json_schema": {"type": "string", "pattern": pattern}})
    assert grammar is not None
    python = pattern.replace(r"\x{1F600}", "\U0001f600").replace("[[:cntrl:]]", r"[\x00-\x1f\"]")
    assert re.search(python, json.loads(checker.check(grammar).closing))


@pytest.mark.parametrize(
    "schema",
    [
        {"minProperties": 2},
        {"minProperties": 3, "required": ["a", "a"]},
        {"minProperties": 3, "required": ["a"], "properties": {"a": {}}},
        {"anyOf": [{"type": "object", "minProperties": 2, "patternProperties": {"^x": {}}}]},
    ],
)
def test_a_count_that_one_name_could_reach_alone_is_refused(schema: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="may have the same name: name all but one of them in required"):
        read_grammar({"json_schema": {"type": "object"} | schema})


def test_a_count_that_needs_one_more_name_is_obeyed() -> None:
    schema = {"type": "object", "required": ["a", "b"], "minProperties": 3}
    assert accepts(schema, '{"a":1,"b":1,"c":1}')
    for text in ('{"a":1,"b":1}', '{"a":1,"b":1,"a":1}', '{"a":1,"b":1,"\\u0061":1}'):
        assert not accepts(schema, text)
    assert accepts({"type": "object", "minProperties": 1}, '{"a":1}')
