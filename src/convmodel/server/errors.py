"""What goes wrong, as OpenAI's API tells it.

Owns: the error envelope, and which status each of our own errors has.
"""

import json
import logging
from collections.abc import Mapping
from typing import Any

from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response

from convmodel.errors import ConfigError, ContextTooLongError, ConversationError, ConvModelError

logger = logging.getLogger(__name__)

INVALID = "invalid_request_error"


class ErrorDetails(BaseModel):
    """What one error says."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorEnvelope(BaseModel):
    """The body of every response that is no success."""

    error: ErrorDetails


class ApiError(Exception):
    """A request that is answered with an error.

    Attributes:
        status: The HTTP status.
        headers: Headers beside the body.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        type: str = INVALID,
        param: str | None = None,
        code: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = dict(headers or {})
        self._details = {"message": message, "type": type, "param": param, "code": code}

    @property
    def envelope(self) -> dict[str, Any]:
        """The body.

        Example:
            >>> ApiError(404, "there is no model gpt-5", param="model").envelope["error"]["param"]
            'model'
        """
        return {"error": self._details}

    def response(self) -> Response:
        """The whole response."""
        # In ASCII, since it may quote what is no text, such as half a pair of UTF-16.
        return Response(json.dumps(self.envelope), self.status, self.headers, media_type="application/json")


def unavailable(message: str, code: str, seconds: int) -> ApiError:
    """Tells a client to come back later."""
    return ApiError(503, message, type="server_error", code=code, headers={"Retry-After": str(seconds)})


def of_exception(error: Exception) -> ApiError:
    """Tells a client what one of our errors, or any other, means to it."""
    if isinstance(error, ApiError):
        return error
    if isinstance(error, ContextTooLongError):
        what = str(error).partition(";")[0]  # the cure there is that of Python's API
        said = f"{what}: shorten it, or ask for fewer new tokens"
        return ApiError(400, said, param="messages", code="context_length_exceeded")
    if isinstance(error, ConversationError):
        return ApiError(400, str(error), param="messages")
    if isinstance(error, ConfigError):
        return ApiError(400, str(error))
    # What it says may hold a path, or a part of somebody's conversation: that is for the log.
    return ApiError(500, "the model failed at this request; the server's log says more", type="server_error")


def of_validation(error: RequestValidationError) -> ApiError:
    """Names the first parameter that is wrong, and what it must be."""
    first = error.errors()[0]
    kind, place = first["type"], [str(part) for part in first["loc"] if part != "body"]
    param = ".".join(place) or None
    if kind == "json_invalid":
        return ApiError(400, "the body is no JSON", code="invalid_json")
    if kind == "extra_forbidden":
        return ApiError(400, f"{param} is not supported here: leave it out", param=param, code="unsupported_parameter")
    said = first["msg"].removeprefix("Value error, ")
    return ApiError(400, f"{param}: {said}" if param else said, param=param)


async def answer_validation(request: Request, error: Exception) -> Response:
    """Answers a request whose body or path is malformed."""
    assert isinstance(error, RequestValidationError)
    return of_validation(error).response()


async def answer_http(request: Request, error: Exception) -> Response:
    """Answers with statuses that the framework raises: an unknown path, a wrong method."""
    assert isinstance(error, HTTPException)
    said = {404: f"there is no {request.url.path} here", 405: f"{request.method} is no method of {request.url.path}"}
    message = said.get(error.status_code, str(error.detail))
    return ApiError(error.status_code, message, headers=error.headers).response()


async def answer_any(request: Request, error: Exception) -> Response:
    """Answers with our own errors; what the gate does not hear of is logged here."""
    found = of_exception(error)
    if found.status == 500 and isinstance(error, ConvModelError):
        logger.error("%s failed", request.scope["route"].path, exc_info=error)
    return found.response()
