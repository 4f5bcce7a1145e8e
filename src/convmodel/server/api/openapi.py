"""What the OpenAPI document says of responses.

Owns: the statuses that every route may answer with.
"""

from typing import Any

from convmodel.server.errors import ErrorEnvelope

_STATUSES = {
    400: "something of the request is not honoured; `param` names it",
    401: "no key, or a wrong one",
    403: "the Host header names another machine",
    404: "no such model or path",
    408: "the body did not arrive",
    413: "the body is too long",
    415: "the body is said to be no JSON",
    422: "never; malformed requests are answered with 400",
    429: "too many requests wait; Retry-After says for how long",
    431: "too many headers, or too long ones",
    500: "the model failed",
    503: "the model is being loaded, or the server is about to stop",
    504: "the response took too long",
}

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorEnvelope, "description": why} for status, why in _STATUSES.items()
}


def streamed(name: str) -> dict[int | str, dict[str, Any]]:
    """Describes a response that is one object, or a stream of its chunks."""
    content = {
        "application/json": {"schema": {"type": "object", "description": name}},
        "text/event-stream": {},  # OpenAPI 3.1 has no words for events; a schema is taken for that of each
    }
    return {200: {"description": f"the response; with `stream`, events with chunks of {name}", "content": content}}
