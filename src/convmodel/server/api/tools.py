"""Tools of chat completions: functions that the model may call, with arguments that obey their schemas.

Owns: the form of a call in a response's text, which is `{"name": ..., "arguments": ...}`, the system message that
describes the functions, and dividing a text with a call into the parts of OpenAI's API.
"""

import json
import re
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Annotated, Any, Literal, TypeAlias

from pydantic import Field

from convmodel.generation.constraints.constraint import CALL_SPACE
from convmodel.server.api.closed_schemas import BY_NAME, LITERALS, closed
from convmodel.server.api.formats import Schema, SchemaName
from convmodel.server.api.strict import Strict, Text

MAX_TOOLS = 128

_BEGIN, _END = '{"name":"', '","arguments":'
_HEAD = re.compile(f"[{CALL_SPACE}]*{re.escape(_BEGIN)}([a-zA-Z0-9_-]+){re.escape(_END)}")

# Of both fields, as a call has them, a response that is no call lacks one.
_NO_CALL: dict[str, Any] = {"anyOf": [{"properties": {"name": False}}, {"properties": {"arguments": False}}]}

_INTRODUCTION = 'You can call functions. To call one, respond with {"name": NAME, "arguments": OBJECT} only. Functions:'


class Function(Strict):
    """A function that may be called.

    Attributes:
        name: Its name.
        description: What it does, for the model.
        parameters: The JSON schema of its arguments, an object; none by default.
        strict: Ignored: a schema is always obeyed.
    """

    name: SchemaName
    description: Text | None = None
    parameters: Schema = Field(
        default_factory=lambda: {"type": "object", "properties": {}, "additionalProperties": False}
    )
    strict: bool = True


class Tool(Strict):
    """A tool; only functions are supported."""

    type: Literal["function"]
    function: Function


class FunctionName(Strict):
    """The name of a function."""

    name: SchemaName


class NamedTool(Strict):
    """The function that must be called."""

    type: Literal["function"]
    function: FunctionName


Tools: TypeAlias = Annotated[list[Tool], Field(max_length=MAX_TOOLS, fail_fast=True)]
ToolChoice: TypeAlias = Literal["none", "auto", "required"] | NamedTool


def call_schema(functions: Sequence[Function], response: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Returns the schema of a call of one of some functions, or else of a response that another schema allows.

    Arguments have the fields that a function's schema lists, unless it allows others.

    Example:
        >>> schema = call_schema([Function(name="f", parameters={"$ref": "#/$defs/a", "$defs": {"a": {}}})])
        >>> schema["$defs"]["f"]["$ref"], schema["anyOf"][0]["properties"]["name"]
        ('#/$defs/f/$defs/a', {'const': 'f'})
    """
    calls = [
        {
            "type": "object",
            "properties": {"name": {"const": function.name}, "arguments": {"$ref": f"#/$defs/{function.name}"}},
            "required": ["name", "arguments"],
            "additionalProperties": False,
        }
        for function in functions
    ]
    schemas = {function.name: _moved(closed(function.parameters), f"#/$defs/{function.name}") for function in functions}
    if response is None:
        return {"anyOf": calls, "$defs": schemas}
    # The name has a character that no function's has.
    schemas[".response"] = no_call_schema(response, "#/$defs/.response")
    return {"anyOf": [*calls, {"$ref": "#/$defs/.response"}], "$defs": schemas}


def no_call_schema(response: Mapping[str, Any], place: str = "#") -> dict[str, Any]:
    """Returns the schema of the responses that another schema allows and that do not look like a call.

    Args:
        response: The other schema.
        place: Where the result stands in a larger schema.
    """
    return {"allOf": [_moved(response, f"{place}/allOf/0"), _NO_CALL]}


def _moved(schema: Mapping[str, Any], place: str) -> Any:
    """Returns a schema whose references to itself are right where it stands in another one.

    Its `$id` is left out: the references would start from there.
    """
    return _with_references({keyword: value for keyword, value in schema.items() if keyword != "$id"}, place)


def _with_references(schema: Any, place: str) -> Any:
    if isinstance(schema, list):
        return [_with_references(value, place) for value in schema]
    if not isinstance(schema, Mapping) or isinstance(schema.get("$id"), str):  # references inside start from that
        return schema
    return {keyword: _moved_value(keyword, value, place) for keyword, value in schema.items()}


def _moved_value(keyword: str, value: Any, place: str) -> Any:
    """Returns the value of a keyword; the names of properties are not keywords, even if one is `default`."""
    if keyword == "$ref" and isinstance(value, str) and (value == "#" or value.startswith("#/")):  # not an anchor
        return place + value[1:]
    if keyword in LITERALS:
        return value
    if keyword in BY_NAME and isinstance(value, Mapping):
        return {name: _with_references(inner, place) for name, inner in value.items()}
    return _with_references(value, place)


def describe(functions: Sequence[Function]) -> str:
    """Returns a system message that describes some functions."""
    fields = [function.model_dump(exclude={"strict"}, exclude_none=True) for function in functions]
    lines = [json.dumps(function, separators=(",", ":"), ensure_ascii=False) for function in fields]
    return "\n".join([_INTRODUCTION, *lines])


def call_text(name: str, arguments: str) -> str:
    """Returns a call as a response has it; the arguments are JSON."""
    return f'{{"name":{json.dumps(name)},"arguments":{arguments}}}'


class CallParts:
    """Divides the text of a response that may be a call, as it arrives, into the deltas of OpenAI's API.

    Args:
        names: Those of the functions; a text that begins as a call of another one is not a call.
    """

    def __init__(self, names: Collection[str]) -> None:
        self._names = names
        self._held = ""
        self._in_text = self._in_arguments = False
        self._id = f"call_{uuid.uuid4().hex}"

    @property
    def is_call(self) -> bool:
        """Whether the response is a call."""
        return self._in_arguments

    def add(self, text: str) -> Iterator[dict[str, Any]]:
        """Yields the deltas of a further piece of text."""
        self._held += text
        if not self._held:
            return
        if self._in_text or not (self._in_arguments or self._may_begin_call(self._held)):
            self._in_text = True
            content, self._held = self._held, ""
            yield {"content": content}
            return
        if not self._in_arguments and (head := _HEAD.match(self._held)):
            self._in_arguments, self._held = True, self._held[head.end() :]
            yield self._delta(id=self._id, type="function", function={"name": head[1], "arguments": ""})
        if self._in_arguments and len(self._held) > 1:  # the last brace is not part of the arguments
            arguments, self._held = self._held[:-1], self._held[-1]
            yield self._delta(function={"arguments": arguments})

    def end(self) -> Iterator[dict[str, Any]]:
        """Yields what was held back since a call might have begun; nothing if one did."""
        if self._held and not self._in_arguments:
            yield {"content": self._held}

    def _may_begin_call(self, text: str) -> bool:
        heads, text = (f"{_BEGIN}{name}{_END}" for name in self._names), text.lstrip(CALL_SPACE)
        return any(text.startswith(head) or head.startswith(text) for head in heads)

    def _delta(self, **call: Any) -> dict[str, Any]:
        return {"tool_calls": [{"index": 0, **call}]}

    @classmethod
    def whole(cls, text: str, names: Collection[str]) -> dict[str, Any]:
        """Returns the content and the calls of a message with a text.

        Example:
            >>> CallParts.whole('{"name":"f","arguments":{"a":1}}', ["f"])["tool_calls"][0]["function"]
            {'name': 'f', 'arguments': '{"a":1}'}
        """
        parts = cls(names)
        deltas = [*parts.add(text)]
        if not parts.is_call:
            return {"content": text}
        [call] = deltas[0]["tool_calls"]
        arguments = "".join(delta["tool_calls"][0]["function"]["arguments"] for delta in deltas)
        function = {"name": call["function"]["name"], "arguments": arguments}
        return {"content": None, "tool_calls": [{"id": call["id"], "type": "function", "function": function}]}
