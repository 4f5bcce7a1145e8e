"""JSON schemas that llguidance accepts but does not obey.

Owns: what they are, and refusing them before they are compiled. What llguidance refuses by itself is not repeated here.
"""

import math
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from fractions import Fraction
from typing import Any

from convmodel.errors import ConfigError

MAX_MULTIPLE = 2**32 - 1
"""The largest number that llguidance computes with for `multipleOf`, in units of the smallest decimal place."""

_MAX_EXACT = 2**53 - 1  # of the integers that float64 keeps, with those beside them
_MIN_INT, _MAX_INT = -(2**63), 2**63 - 1
_SUBSCHEMAS = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
_DATA = frozenset({"const", "enum", "default", "examples"})

_BOUNDS = {"minimum": 0, "maximum": 0, "exclusiveMinimum": 1, "exclusiveMaximum": -1}
"""Keywords of bounds, and what is added to their values to get the first integer inside."""

_UPPER = frozenset({"maximum", "exclusiveMaximum"})

_CONTROL = frozenset(map(chr, (*range(8), 11, *range(14, 32), 127)))
"""Characters that JSON writes as \\uXXXX only: they are never generated, and llguidance drops them from texts."""

_PATTERN_PART = re.compile(
    r"\\[xuU]\{\s*([0-9A-Fa-f]+)\s*\}|\\x([0-9A-Fa-f]{2})|\\u([0-9A-Fa-f]{4})|\\U([0-9A-Fa-f]{8})|\\(.)|.", re.DOTALL
)
_ESCAPES = {"a": "\a", "v": "\v"}  # of regular expressions, for control characters


def check_schema(schema: Any) -> None:
    """Raises a `ConfigError` if llguidance would accept a schema, as JSON, but generate what it does not allow."""
    parts = [*_schemas(schema)]
    _check_multiples(parts)
    for part in parts:
        _check_values(part)
        _check_patterns(part)
        _check_bounds(part)
        _check_count(part)


def _schemas(schema: Any) -> Iterator[Mapping[str, Any]]:
    """Yields a schema and all schemas inside it; properties may have the names of keywords."""
    parts = [schema]
    while parts:
        part = parts.pop()
        if isinstance(part, Mapping):
            yield part
            for keyword, value in part.items():
                if keyword in _SUBSCHEMAS and isinstance(value, Mapping):
                    parts += value.values()
                elif keyword not in _DATA:
                    parts.append(value)
        elif isinstance(part, list):
            parts += part


def _check_multiples(parts: list[Mapping[str, Any]]) -> None:
    """Raises a `ConfigError` if the values of `multipleOf` have too large a common multiple.

    llguidance combines those of one value in 32 bits without a check, and then generates numbers that are no multiples.
    Which of them concern one value is not worth finding out: all together are rarely so large.
    """
    values: list[Any] = [part.get("multipleOf") for part in parts]
    found = {Decimal(str(value)) for value in values if _is_number(value) and value > 0}
    if len(found) < 2:
        return
    digits = max(0, *(-int(value.as_tuple().exponent) for value in found))
    common = 1
    for value in found:
        common = math.lcm(common, int(Fraction(value) * 10**digits))
        if common > MAX_MULTIPLE:
            raise ConfigError(
                f"json_schema cannot be used: its values of multipleOf have no common multiple up to {MAX_MULTIPLE}: "
                "use fewer or smaller ones"
            )


def _check_values(part: Mapping[str, Any]) -> None:
    """Raises a `ConfigError` if `const` or `enum` has an integer or a text that llguidance would change.

    It reads all numbers as float64.
    """
    for keyword in ("const", "enum"):
        for value in _scalars(part.get(keyword)):
            if isinstance(value, str):
                _refuse_control(keyword, value)
            elif isinstance(value, int) and not _is_kept(value):
                raise ConfigError(
                    f"json_schema cannot be used: {keyword} has {_short(value)}, which would become another number: "
                    f"make it a string, or use integers up to {_MAX_EXACT}"
                )


def _check_patterns(part: Mapping[str, Any]) -> None:
    """Raises a `ConfigError` if a pattern requires a character that llguidance would leave out of it."""
    names: Any = part.get("patternProperties")
    patterns = {"pattern": [part.get("pattern")], "patternProperties": [*names] if isinstance(names, Mapping) else []}
    for keyword, values in patterns.items():
        for pattern in values:
            if isinstance(pattern, str):
                _refuse_control(keyword, _required_characters(pattern))


def _refuse_control(keyword: str, text: Iterable[str]) -> None:
    if control := sorted({*text} & _CONTROL):
        raise ConfigError(
            f"json_schema cannot be used: {keyword} has the control character U+{ord(control[0]):04X}, which is never "
            "generated: leave it out"
        )


def _required_characters(pattern: str) -> set[str]:
    """Returns the characters of a regular expression, without those of classes with several members."""
    required: set[str] = set()
    classes: list[list[str]] = []  # the members of those around a place; a negated one begins with ^
    for part in _PATTERN_PART.finditer(pattern):
        if part[0] == "[":
            classes.append([])
        elif part[0] == "]" and classes:
            members = {*classes.pop()} - {"-"}
            required |= members if len(members) == 1 else set()
        elif classes:
            classes[-1].append(_character(part))
        else:
            required.add(_character(part))
    return required


def _character(part: re.Match[str]) -> str:
    *codes, letter = part.groups()
    code = next((int(code, 16) for code in codes if code), None)
    if code is not None:
        return chr(code) if code <= sys.maxunicode else ""
    return _ESCAPES.get(letter, letter) if letter else part[0]


def _check_count(part: Mapping[str, Any]) -> None:
    """Raises a `ConfigError` if properties of the same name would count as several."""
    count: Any = part.get("minProperties")
    required: Any = part.get("required")
    names = {name for name in required if isinstance(name, str)} if isinstance(required, list) else set()
    if _is_number(count) and count - len(names) > 1:
        raise ConfigError(
            f"json_schema cannot be used: minProperties is {_short(count)}, but properties beyond those in required "
            "may have the same name: name all but one of them in required"
        )


def _check_bounds(part: Mapping[str, Any]) -> None:
    """Raises a `ConfigError` if a bound would become another one: llguidance reads it as float64, or int64."""
    types = part.get("type")
    is_integer = types == "integer" or (isinstance(types, list) and "number" not in types)
    for keyword, step in _BOUNDS.items():
        value: Any = part.get(keyword)
        if not _is_number(value) or value != int(value):
            continue
        bound = int(value)
        is_beyond = bound + step >= _MAX_INT if keyword in _UPPER else bound + step <= _MIN_INT
        if is_integer and is_beyond:  # llguidance generates integers of 64 bits only, so all of them are inside
            continue
        is_kept = isinstance(value, float) or _is_kept(bound, as_float=not is_integer)
        if not (is_kept and _is_kept(bound + step) and _MIN_INT <= bound <= _MAX_INT):
            raise ConfigError(
                f"json_schema cannot be used: {keyword} is {_short(value)}, which would become another bound: use one "
                f"from -{_MAX_EXACT} to {_MAX_EXACT}"
            )


def _scalars(value: Any) -> Iterator[Any]:
    """Yields the numbers, texts and so on of which a value consists, without names."""
    parts = [value]
    while parts:
        part = parts.pop()
        if isinstance(part, Mapping):
            parts += part.values()
        elif isinstance(part, list):
            parts += part
        else:
            yield part


def _is_kept(number: int, *, as_float: bool = False) -> bool:
    """Returns whether an integer is the same when llguidance has read it as float64 and written it.

    It writes it as an integer if that fits in 64 bits, else, and in ranges of floats, with the digits of the float.
    """
    try:
        rounded = float(number)
    except OverflowError:
        return False
    return number == (Decimal(repr(rounded)) if as_float or abs(rounded) > _MAX_INT else int(rounded))


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 40 else text[:39] + "…"
