"""JSON bodies to validated requests, with bounded work.

Owns: how many values a body may have, that long bodies are parsed and validated beside the event loop, and the name of
an invalid parameter.
"""

import json
import re
from collections.abc import Callable, Coroutine, Sequence
from functools import partial
from typing import Any

import anyio
from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails
from starlette.requests import Request
from starlette.responses import Response

from convmodel.server.errors import ApiError
from convmodel.server.settings import MAX_MARKS

_SHORT = 2**13  # bytes; a body up to here takes less time than to hand it to a thread and back
_THREADS = anyio.CapacityLimiter(1)  # parsing holds the interpreter's lock, so more threads would only delay others

_STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"?'
_STRINGS = re.compile(_STRING, re.DOTALL)
_BLOCKS = re.compile(rb'(?:[^"]*+' + _STRING + rb'){1,2048}|[^"]++', re.DOTALL)
_DIGITS = 40  # of an integer; no parameter has as many


class BodyRoute(APIRoute):
    """A route whose body is a model of `schemas`; its handler receives it validated."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """Returns the function that answers a request."""
        handle = super().get_route_handler()
        assert self.body_field is not None
        schema: type[BaseModel] = self.body_field.field_info.annotation  # type: ignore[assignment]

        async def handle_body(request: Request) -> Response:
            body = await request.body()
            validate = partial(validated, schema, body)
            if len(body) <= _SHORT:
                value = validate()
            else:
                value = await anyio.to_thread.run_sync(validate, limiter=_THREADS)
            return await handle(_ValidatedRequest(request, body, value))

        return handle_body


class _ValidatedRequest(Request):
    """A request whose JSON is a validated model, which FastAPI passes to the handler as it is."""

    def __init__(self, request: Request, body: bytes, value: BaseModel) -> None:
        super().__init__(request.scope, request.receive)
        self._body = body
        self._value = value

    async def json(self) -> Any:
        return self._value


def validated(schema: type[BaseModel], body: bytes) -> BaseModel:
    """Parses and validates a body.

    Raises:
        ApiError: If it is not JSON, has too many values, or does not match the schema.
    """
    value = _parse(body)
    try:
        return schema.model_validate(value)
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=False, include_input=False)
        raise _validation_error(details, value) from error


def _validation_error(errors: Sequence[ErrorDetails], value: Any) -> ApiError:
    """Reports the first error of the body, in its most specific form.

    Where several types are allowed, each of them has errors; the one that goes deepest is of the type that was sent.
    """
    paths = [_path(error["loc"], value) for error in errors]
    place = paths[0][:-1] if errors[0]["type"] == "missing" else paths[0]
    alike = [number for number, path in enumerate(paths) if path[: len(place)] == place]
    best = max(alike, key=lambda number: (len(paths[number]), errors[number]["type"] not in _UNSPECIFIC))
    param, kind = ".".join(map(str, paths[best])) or None, errors[best]["type"]
    if kind == "extra_forbidden":
        return ApiError(400, f"{param} is not supported here: leave it out", param=param, code="unsupported_parameter")
    same = [number for number in alike if paths[number] == paths[best] and kind in _UNSPECIFIC]
    message = " or: ".join(dict.fromkeys(errors[number]["msg"] for number in [best, *same]))
    message = message.removeprefix("Value error, ")
    name = message.partition(" ")[0]  # of a rule about two fields
    if param is None and isinstance(value, dict) and name in value:
        return ApiError(400, message, param=name)
    return ApiError(400, f"{param}: {message}" if param else message, param=param)


_UNSPECIFIC = ("missing", "string_type", "list_type", "model_type", "dict_type")


def _path(place: Sequence[int | str], value: Any) -> tuple[int | str, ...]:
    """Returns the place of an error in a body; pydantic's also names the types that it tried.

    Example:
        >>> _path(("messages", 0, "content", "list[TextPart]", 0, "type"), {"messages": [{"content": [{"type": 1}]}]})
        ('messages', 0, 'content', 0, 'type')
    """
    path: list[int | str] = []
    for number, part in enumerate(place):
        is_type = part == "[key]" or str(part).startswith("literal[")
        is_missing = isinstance(value, dict) and number == len(place) - 1 and not is_type
        is_index = isinstance(value, list) and isinstance(part, int) and part < len(value)
        if is_index or (isinstance(value, dict) and part in value):
            value = value[part]
        elif not is_missing:
            continue
        path.append(part)
    return tuple(path)


def _parse(body: bytes) -> Any:
    # Counted before anything is made of it: a million empty objects take a hundred times the memory of their text.
    if _marks(body) > MAX_MARKS and _marks_outside(body) > MAX_MARKS:
        message = f"the body has more than {MAX_MARKS} commas and brackets outside of texts: send fewer messages"
        raise ApiError(400, message, code="body_too_long")
    try:
        return json.loads(body.decode("utf-8-sig"), parse_int=_integer)
    except (ValueError, RecursionError) as error:
        raise ApiError(400, "the body is not valid JSON", code="invalid_json") from error


def _marks(text: bytes) -> int:
    """Counts commas and opening brackets, of which valid JSON has about as many as values."""
    return sum(map(text.count, (b",", b"[", b"{")))


def _marks_outside(body: bytes) -> int:
    """Counts the marks outside of texts, not far beyond the limit."""
    count = 0
    for block in _BLOCKS.finditer(body):  # in blocks, between which other threads may run
        count += _marks(_STRINGS.sub(b"", block[0]))
        if count > MAX_MARKS:
            break
    return count


def _integer(digits: str) -> int:
    """Reads an integer; of one that is too long for every parameter, the beginning, which is also too large."""
    return int(digits[:_DIGITS])
