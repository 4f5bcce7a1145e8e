"""Forms with a file: `multipart/form-data`, read while it arrives.

Owns: the parts of a form, and how long their heads and fields may be. Does not know what becomes of the file.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Collection
from dataclasses import dataclass, field
from typing import Any

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.requests import Request

from convmodel.server.errors import ApiError

_LONGEST_FIELD = 1000  # bytes
_BUFFER = 2**20  # bytes that are written at once


@dataclass
class Form:
    """The parts of a form that was read."""

    fields: dict[str, str] = field(default_factory=dict)
    filename: str | None = None  # None without a file


@dataclass
class _Part:
    name: str = ""
    filename: str | None = None
    value: bytearray = field(default_factory=bytearray)


async def read_form(
    request: Request, *, fields: Collection[str], file: str, write: Callable[[bytes], Awaitable[None]]
) -> Form:
    """Reads a form with one file, which is passed on in pieces.

    Args:
        request: The request; its body was not read yet.
        fields: The names of fields that the form may have.
        file: The name of the file's field.
        write: Called with each piece of the file.

    Raises:
        ApiError: If it is not such a form.
    """
    form, part = Form(), _Part()
    buffer = bytearray()
    async for event, data in _events(request):
        if event == "head":
            part = _part_of(data, form, fields, file)
        elif event == "data" and part.filename is not None:
            buffer += data
            if len(buffer) >= _BUFFER:
                await write(bytes(buffer))
                buffer.clear()
        elif event == "data":
            part.value += data
            if len(part.value) > _LONGEST_FIELD:
                raise ApiError(400, f"{part.name} is longer than {_LONGEST_FIELD} bytes", param=part.name)
        elif part.filename is not None:
            form.filename = part.filename
        else:
            form.fields[part.name] = part.value.decode(errors="replace")
    if buffer:
        await write(bytes(buffer))
    if form.filename is None:
        raise ApiError(400, f"{file} is missing: send the file in a field of this name", param=file)
    return form


async def _events(request: Request) -> AsyncIterator[tuple[str, Any]]:
    """Yields the head of each part, its data in pieces, and its end."""
    events: list[tuple[str, Any]] = []
    header, headers = [bytearray(), bytearray()], {}
    ended: list[bool] = []

    def end_header() -> None:
        headers[bytes(header[0]).lower()] = bytes(header[1])
        header[0].clear()
        header[1].clear()

    def end_headers() -> None:
        events.append(("head", headers.pop(b"content-disposition", b"")))
        headers.clear()

    callbacks: Any = {
        "on_header_field": lambda data, start, end: header[0].extend(data[start:end]),
        "on_header_value": lambda data, start, end: header[1].extend(data[start:end]),
        "on_header_end": end_header,
        "on_headers_finished": end_headers,
        "on_part_data": lambda data, start, end: events.append(("data", data[start:end])),
        "on_part_end": lambda: events.append(("end", None)),
        "on_end": lambda: ended.append(True),
    }
    try:
        boundary = parse_options_header(request.headers["content-type"])[1].get(b"boundary", b"")
        if not boundary:
            raise _malformed("its Content-Type names no boundary")
        parser = MultipartParser(boundary, callbacks)
        async for chunk in request.stream():
            if not ended:  # what follows the last boundary does not count
                parser.write(chunk)
            for event in events:
                yield event
            events.clear()
    except FormParserError as error:
        raise _malformed(str(error)) from error
    if not ended:
        raise _malformed("its end is missing")


def _part_of(disposition: bytes, form: Form, fields: Collection[str], file: str) -> _Part:
    kind, options = parse_options_header(disposition)
    name = options.get(b"name", b"").decode(errors="replace")
    filename = options.get(b"filename")
    if kind != b"form-data" or not name:
        raise _malformed("a part of it has no name")
    if name != file and name not in fields:
        raise ApiError(
            400, f"{name} is not supported here: leave it out", param=name[:100], code="unsupported_parameter"
        )
    if name in form.fields or (name == file and form.filename is not None):
        raise ApiError(400, f"{name} is given twice: send it once", param=name)
    if (name == file) != (filename is not None):
        fix = "send it as a file" if name == file else "send it as a text"
        raise ApiError(400, f"{name} is not what it should be: {fix}", param=name)
    return _Part(name, None if filename is None else filename.decode(errors="replace"))


def _malformed(problem: str) -> ApiError:
    return ApiError(400, f"the form cannot be read: {problem}", code="invalid_form")
