"""Errors in the form of OpenAI's API.

Owns: the error envelope, the statuses that any route may return, and that of each of convmodel's own errors.
"""

import errno
import json
import logging
from collections.abc import Mapping
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from convmodel.errors import ConfigError, ConversationError, ConvModelError, SaveError

logger = logging.getLogger(__name__)


class ErrorDetails(BaseModel):
    """One error."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorEnvelope(BaseModel):
    """The body of every response that reports an error."""

    error: ErrorDetails


_STATUSES = {
    400: "the request is invalid or not supported; `param` names the field",
    401: "the key is missing or wrong",
    403: "the Host header is not a name of this server, or a page of another site uploads a file",
    404: "there is no such model, file, job or path",
    408: "the body did not arrive in time",
    413: "the body, or the file, is too long",
    415: "the Content-Type is not application/json, or, for a file, not multipart/form-data",
    422: "never used; malformed requests are answered with 400",
    429: "too many requests are waiting, or there are too many jobs; see Retry-After",
    431: "the headers are too many or too long",
    500: "the model failed",
    503: "the server is loading the model, or shutting down",
    504: "the response took too long",
    507: "feedback, votes or files have reached their limit, or the disk is full: nothing was saved",
}

ERRORS: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorEnvelope, "description": description} for status, description in _STATUSES.items()
}
"""The errors of a route, for the OpenAPI document."""


_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)  # of a disk or a file


class ApiError(Exception):
    """An error as a client receives it: an HTTP status, additional headers, and the fields of the envelope."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = "invalid_request_error",
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})
        self._details = {"message": message, "type": type, "param": param, "code": code}

    def renamed(self, names: Mapping[str, str]) -> "ApiError":
        """Returns the error with other names of parameters, for a request that was converted to another one."""
        details: dict[str, Any] = dict(self._details)
        message = str(details.pop("message"))
        name, dot, rest = (details["param"] or "").partition(".")
        if name in names:
            details["param"] = names[name] + dot + rest
            message = names[name] + message.removeprefix(name) if message.startswith(name) else message
        return ApiError(self.status, message, headers=self.headers, **details)

    @property
    def envelope(self) -> dict[str, Any]:
        """The response body."""
        return {"error": self._details}

    def response(self) -> Response:
        """Returns the whole response."""
        # In ASCII, since the message may quote text that UTF-8 cannot encode, such as a lone surrogate.
        return Response(json.dumps(self.envelope), self.status, self.headers, media_type="application/json")


def unavailable(message: str, code: str, seconds: int) -> ApiError:
    """Returns a 503 that tells the client to retry after some seconds."""
    return ApiError(503, message, type="server_error", code=code, headers={"Retry-After": str(seconds)})


def waited_too_long(seconds: float) -> ApiError:
    """Returns the error for a request that waited in the queue for too long."""
    return unavailable(f"the request waited in the queue for {seconds:g} s: try again later", "waited", 5)


def api_error(error: Exception) -> ApiError:
    """Converts any exception to the error that the client receives."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, ConversationError):
        return ApiError(400, str(error), param="messages")
    if isinstance(error, ConfigError):
        return ApiError(400, str(error))
    if isinstance(error, SaveError) and isinstance(cause := error.__cause__, OSError) and cause.errno in _FULL:
        message = "the server's disk is full, so nothing was saved: make room and send it again"
        return ApiError(507, message, type="server_error", code="storage_full")
    # The message may contain a path, so only the log has it.
    return ApiError(500, "the model failed on this request: see the server's log", type="server_error")


def _http_error(error: HTTPException, request: Request) -> ApiError:
    """Converts an error of the framework, such as an unknown path or a wrong method."""
    messages = {404: f"there is no {request.url.path}", 405: f"{request.url.path} does not support {request.method}"}
    message = messages.get(error.status_code, str(error.detail))
    return ApiError(error.status_code, message, headers=error.headers)


def _query_error(error: RequestValidationError) -> ApiError:
    """Converts an invalid parameter of the query; `convmodel.server.api.body` reports those of a body."""
    details = error.errors()[0]
    param = str(details["loc"][-1])
    return ApiError(400, f"{param}: {details['msg']}", param=param)


async def handle_error(request: Request, error: Exception) -> Response:
    """Answers a request that raised, and logs those of convmodel's own errors that become a 500 or 507.

    Other errors that become a 500 propagate to the middleware, which logs them.
    """
    if isinstance(error, HTTPException):
        return _http_error(error, request).response()
    if isinstance(error, RequestValidationError):
        return _query_error(error).response()
    converted = api_error(error)
    if converted.status in (500, 507) and isinstance(error, ConvModelError):
        logger.error("%s failed", request.scope["route"].path, exc_info=error)
    return converted.response()
