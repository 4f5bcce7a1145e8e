"""Closing the objects of a JSON schema, so that a small model does not invent fields of a function's arguments.

Owns: which objects may be closed. A closed schema allows nothing that the schema does not allow, and of each value that
the schema allows, what is left of it without fields that are not listed.
"""

import re
from collections.abc import Iterator, Mapping
from typing import Any

LITERALS = ("const", "enum", "default", "examples")
"""Keywords whose values are not schemas."""

BY_NAME = ("properties", "patternProperties", "dependentSchemas", "$defs", "definitions")
"""Keywords whose values are schemas by names."""

# With them, several schemas say of one value which fields it may have: closed, one would forbid what another needs, or
# (`oneOf`, `not`, `if`, `contains`) allow a value that the whole forbids. Closed items are alike more often.
_COMBINING = {
    "allOf",
    "contains",
    "dependencies",
    "dependentRequired",
    "dependentSchemas",
    "if",
    "not",
    "oneOf",
    "uniqueItems",
    "$dynamicRef",
}
_CHOOSING = {"anyOf", "$ref"}  # other schemas of the same value
_OF_FIELDS = {"const", "enum", "minProperties", "properties", "required"}  # which may need one that those do not list
_DECIDED = {"additionalProperties", "const", "enum", "patternProperties", "propertyNames", "unevaluatedProperties"}
_DEFINITION = re.compile(r"#(/(\$defs|definitions)/[^/]+)?")


def closed(schema: Any) -> Any:
    """Returns a schema with `additionalProperties: false` where an object lists its properties and says nothing else.

    A schema that combines schemas of one object is returned as it is.

    Examples:
        >>> closed({"properties": {"a": {"type": "string"}}})
        {'properties': {'a': {'type': 'string'}}, 'additionalProperties': False}
        >>> closed({"properties": {"a": {}}, "additionalProperties": True})
        {'properties': {'a': {}}, 'additionalProperties': True}
    """
    return schema if any(map(_combines, _parts(schema))) else _close(schema)


def _combines(part: Mapping[str, Any]) -> bool:
    keywords, target = part.keys(), part.get("$ref", "#")
    is_elsewhere = not isinstance(target, str) or not _DEFINITION.fullmatch(target)
    return is_elsewhere or bool(_COMBINING & keywords or (_OF_FIELDS & keywords and _CHOOSING & keywords))


def _close(schema: Any) -> Any:
    if isinstance(schema, list):
        return [_close(part) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    result = {}
    for keyword, value in schema.items():
        if keyword in BY_NAME and isinstance(value, Mapping):
            result[keyword] = {name: _close(part) for name, part in value.items()}
        else:
            result[keyword] = value if keyword in LITERALS else _close(value)
    return result | {"additionalProperties": False} if _may_be_closed(schema) else result


def _may_be_closed(schema: Mapping[str, Any]) -> bool:
    listed, needed = schema.get("properties"), schema.get("required", [])
    if not isinstance(listed, Mapping) or not isinstance(needed, list) or _DECIDED & schema.keys():
        return False
    names, least = {*map(str, needed)}, schema.get("minProperties", 0)
    return names <= listed.keys() and isinstance(least, int | float) and least <= len(names)


def _parts(schema: Any) -> Iterator[Mapping[str, Any]]:
    """Yields a schema and all inside it."""
    waiting = [schema]
    while waiting:
        part = waiting.pop()
        if isinstance(part, list):
            waiting += part
        elif isinstance(part, Mapping):
            yield part
            for keyword, value in part.items():
                if keyword in BY_NAME and isinstance(value, Mapping):
                    waiting += value.values()
                elif keyword not in LITERALS:
                    waiting.append(value)
