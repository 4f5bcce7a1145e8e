"""JSON schemas to draw with hypothesis, and those that a server may be attacked with."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from hypothesis import strategies as st

NAMES = ["name", "age", "a b", "ä", 'x"y', "list", "ok"]
PATTERNS = ["^[a-z]+$", "^\\d{3}-\\d{4}$", "b", "^(yes|no)$", "[A-Z][a-z]*", "^\\S+@\\S+[.]com$", "^.{2,9}$", "x.*y"]
FORMATS = ["date", "time", "date-time", "uuid", "ipv4"]

_COUNTS = st.integers(0, 5)
_NUMBERS = st.integers(-1000, 1000)
_SCALARS = st.text(max_size=8) | _NUMBERS | st.booleans() | st.none()


def _of(kind: str, **fields: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.fixed_dictionaries({"type": st.just(kind)}, optional=fields)


def _objects(schemas: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    names = st.sampled_from(NAMES)
    fields = {
        "properties": st.dictionaries(names, schemas, max_size=4),
        "required": st.lists(names, max_size=3, unique=True),
    }
    return _of("object", **fields, additionalProperties=st.booleans() | schemas)


def _inner(schemas: st.SearchStrategy[Any]) -> st.SearchStrategy[Any]:
    return (
        _of("array", items=schemas, minItems=_COUNTS, maxItems=st.integers(5, 9))
        | _objects(schemas)
        | st.fixed_dictionaries({"anyOf": st.lists(schemas, min_size=1, max_size=3)})
    )


SCHEMAS: st.SearchStrategy[dict[str, Any]] = st.recursive(
    st.one_of(
        _of("string", minLength=_COUNTS, maxLength=st.integers(5, 30)),
        _of("string", pattern=st.sampled_from(PATTERNS)),
        _of("string", format=st.sampled_from(FORMATS)),
        _of("integer", minimum=_NUMBERS, maximum=_NUMBERS, multipleOf=st.sampled_from([1, 2, 5, 10])),
        _of("number", minimum=_NUMBERS, exclusiveMaximum=_NUMBERS),
        _of("boolean"),
        _of("null"),
        st.fixed_dictionaries({"enum": st.lists(_SCALARS, min_size=1, max_size=6)}),
        st.fixed_dictionaries({"const": _SCALARS}),
    ),
    _inner,
    max_leaves=8,
)
"""Schemas of the kind that programs use; some of them contradict themselves."""


SIZES = (1, 2, 3, 5, 8, 12, 20, 30, 50, 80, 120, 200, 300, 500, 800, 1200, 2000, 3000, 5000, 8000)


def hostile_schemas(sizes: Sequence[int] = SIZES) -> Iterator[tuple[str, Any]]:
    """Yields schemas that are deep, wide, cyclic or explosive, each in growing sizes, by their names."""
    for name, make in _FAMILIES.items():
        for size in sizes:
            yield f"{name} {size}", make(size)


def _nested(size: int, wrap: Callable[[Any], Any]) -> Any:
    schema: Any = {"type": "string"}
    for _ in range(min(size, 900)):  # deeper ones cannot even be written as JSON
        schema = wrap(schema)
    return schema


def _chain(size: int, link: Callable[[dict[str, str]], Any]) -> Any:
    links = {f"a{number}": link({"$ref": f"#/$defs/a{number + 1}"}) for number in range(size)}
    return {"$ref": "#/$defs/a0", "$defs": {**links, f"a{size}": {"type": "string"}}}


def _cycle(size: int, link: Callable[[dict[str, str]], Any]) -> Any:
    links = {f"a{number}": link({"$ref": f"#/$defs/a{(number + 1) % size}"}) for number in range(size)}
    return {"$ref": "#/$defs/a0", "$defs": links}


def _list_of(inner: Any) -> Any:
    return {"type": "array", "items": inner}


def _needs(inner: Any) -> Any:
    return {"type": "object", "properties": {"x": inner}, "required": ["x"], "additionalProperties": False}


def _strings(size: int) -> Any:
    return {f"p{number}": {"type": "string"} for number in range(size)}


def _matching(pattern: str) -> Any:
    return {"type": "string", "pattern": pattern}


_FAMILIES: dict[str, Callable[[int], Any]] = {
    "nested arrays": lambda size: _nested(size, _list_of),
    "nested objects": lambda size: _nested(size, _needs),
    "nested anyOf": lambda size: _nested(min(size, 16), lambda inner: {"anyOf": [inner, _list_of(inner)]}),
    "nested allOf": lambda size: _nested(size, lambda inner: {"allOf": [inner, {"minLength": 1}]}),
    "properties": lambda size: {"type": "object", "properties": _strings(size)},
    "required": lambda size: {"type": "object", "properties": _strings(size), "required": [*_strings(size)]},
    "enum": lambda size: {"enum": [f"value {n * 7919}" for n in range(size * 10)]},
    "long enum": lambda size: {"enum": ["x" * size * 10 + str(n) for n in range(4)]},
    "long const": lambda size: {"const": "ab" * size},
    "anyOf": lambda size: {"anyOf": [_needs({"const": n}) for n in range(size)]},
    "oneOf": lambda size: {"oneOf": [_needs({"type": "string", "minLength": n}) for n in range(size)]},
    "chain of references": lambda size: _chain(size, _needs),
    "chain of pairs": lambda size: _chain(size, lambda inner: {"allOf": [inner, inner]}),
    "chain of choices": lambda size: _chain(size, lambda inner: {"anyOf": [inner, _needs(inner)]}),
    "cycle of references": lambda size: _cycle(size, lambda inner: inner),
    "cycle of objects": lambda size: _cycle(size, _needs),
    "cycle of lists": lambda size: _cycle(size, lambda inner: _list_of(inner) | {"minItems": 1}),
    "cycle of choices": lambda size: _cycle(size, lambda inner: {"anyOf": [_needs(inner), _needs(inner)]}),
    "nested repeats": lambda size: _matching("(" * min(size, 200) + "a" + "+)" * min(size, 200)),
    "powers": lambda size: _matching(f"^((a{{1,{size}}}){{1,{size}}}){{1,{size}}}$"),
    "exponential automata": lambda size: _matching(f"^[ab]*a[ab]{{{size}}}$"),
    "any of any": lambda size: _matching(f"^(.*a){{{size}}}$"),
    "alternatives": lambda size: _matching("^(" + "|".join(f"a{n}b?" for n in range(size)) + ")+$"),
    "Unicode classes": lambda size: _matching(f"^(\\w{{1,{size}}}\\p{{L}}{{1,{size}}})+$"),
    "lookahead": lambda size: _matching("^" + "(?=a)" * size + "b$"),
    "pairs of patterns": lambda size: {"allOf": [_matching(f"^.*[a-m]{{{n}}}.*$") for n in range(min(size, 300))]},
    "minLength": lambda size: {"type": "string", "minLength": size**2},
    "minItems": lambda size: _list_of({"type": "string"}) | {"minItems": size**2},
    "multipleOf": lambda size: {"type": "integer", "multipleOf": size * 997 + 1},
    "multiples": lambda size: {"allOf": [{"type": "integer", "multipleOf": n} for n in range(2, min(size, 200) + 2)]},
    "bounds": lambda size: {"type": "number", "minimum": -(10.0 ** min(size, 300)), "maximum": 10.0 ** -min(size, 300)},
    "patternProperties": lambda size: {
        "type": "object",
        "patternProperties": {f"^(a|b){{{n}}}c": {"type": "string"} for n in range(size)},
    },
    "additionalProperties": lambda size: _nested(size, lambda inner: {"type": "object", "additionalProperties": inner}),
    "anchors": lambda size: {
        "$ref": "#a0",
        "$defs": {f"a{n}": {"$anchor": f"a{n}", "type": "null"} for n in range(size)},
    },
    "backreferences": lambda size: _matching("^" + "(a+)" * size + "".join(f"\\{n + 1}" for n in range(size)) + "$"),
    "comments": lambda size: {"type": "string", "$comment": "x" * size * 1000, "description": "y" * size * 1000},
    "conditions": lambda size: _nested(
        min(size, 16), lambda inner: {"if": inner, "then": inner, "else": {"type": "null"}}
    ),
    "contains": lambda size: _list_of({}) | {"contains": {"const": 1}, "minContains": size, "maxContains": size**2},
    "dependentRequired": lambda size: {
        "type": "object",
        "properties": _strings(size),
        "dependentRequired": {name: [f"p{number}" for number in range(min(size, 20))] for name in _strings(size)},
    },
    "dynamic references": lambda size: _nested(size, lambda inner: {"$dynamicRef": "#x", "items": inner}),
    "formats": lambda size: {
        "allOf": [{"type": "string", "format": ("date", "uuid", "ipv6")[n % 3]} for n in range(size)]
    },
    "group of digits": lambda size: _matching("^" + "[0-9]+" * size + "$"),
    "names": lambda size: _needs({"type": "object", "properties": {'n\u2028"\\' * size: {"type": "null"}}}),
    "negations": lambda size: _nested(size, lambda inner: {"not": inner}),
    "prefixItems": lambda size: {"type": "array", "prefixItems": [{"const": n} for n in range(size)], "minItems": size},
    "products of choices": lambda size: {
        "allOf": [{"anyOf": [{"minLength": n}, {"maxLength": n + 9}]} for n in range(size)],
    },
    "propertyNames": lambda size: {
        "type": "object",
        "propertyNames": _matching(f"^(x+x+){{{size}}}y$"),
        "minProperties": 1,
    },
    "ranges of characters": lambda size: _matching(
        "^[" + "".join(f"\\u{0x400 + 2 * n:04x}" for n in range(size)) + "]{9}$"
    ),
    "required, undeclared": lambda size: {"type": "object", "required": [f"r{n}" for n in range(size)]},
    "types": lambda size: {"type": ["string", "null", "boolean", "array", "object"] * size},
    "unevaluatedProperties": lambda size: {"allOf": [{"properties": _strings(size)}], "unevaluatedProperties": False},
    "uniqueItems": lambda size: _list_of({"enum": [*range(size)]}) | {"uniqueItems": True, "minItems": size},
}
