"""The descriptions of responses in the OpenAPI document.

Owns: the statuses that any route may return.
"""

from typing import Any

from convmodel.server.errors import ErrorEnvelope

_STATUSES = {
    400: "the request is invalid or not supported; `param` names the field",
    401: "the key is missing or wrong",
    403: "the Host header is not a name of this server",
    404: "there is no such model or path",
    408: "the body did not arrive in time",
    413: "the body is too long",
    415: "the Content-Type is not application/json",
    422: "never used; malformed requests are answered with 400",
    429: "too many requests are waiting; see Retry-After",
    431: "the headers are too many or too long",
    500: "the model failed",
    503: "the server is loading the model, or shutting down",
    504: "the response took too long",
}

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorEnvelope, "description": description} for status, description in _STATUSES.items()
}


def streamed(name: str) -> dict[int | str, dict[str, Any]]:
    """Describes a response that is one object, or a stream of its chunks."""
    content = {
        "application/json": {"schema": {"type": "object", "description": name}},
        "text/event-stream": {},  # OpenAPI 3.1 cannot describe single events: a schema would apply to the whole body
    }
    return {200: {"description": f"the response; with `stream`, events with chunks of {name}", "content": content}}
