"""Each error becomes a status and a message for clients."""

import errno
from pathlib import Path
from typing import Any

import pytest

from convmodel.errors import ConfigError, ConversationError, ModelLoadError, SaveError
from convmodel.server.errors import ApiError, api_error, unavailable


def details(error: Exception) -> tuple[int, dict[str, Any]]:
    converted = api_error(error)
    return converted.status, converted.envelope["error"]


def test_parameters_have_the_names_of_the_request_that_was_sent() -> None:
    error = ApiError(400, "max_completion_tokens is 500: too many", param="max_completion_tokens", code="c")
    renamed = error.renamed({"max_completion_tokens": "max_output_tokens", "messages": "input"})
    assert renamed.envelope["error"] == {
        "message": "max_output_tokens is 500: too many",
        "type": "invalid_request_error",
        "param": "max_output_tokens",
        "code": "c",
    }
    nested = ApiError(400, "x", param="messages.0.name").renamed({"messages": "input"})
    assert nested.envelope["error"]["param"] == "input.0.name"


def test_errors_of_the_request_are_400() -> None:
    assert details(ConversationError("turn 2 is empty")) == (
        400,
        {"message": "turn 2 is empty", "type": "invalid_request_error", "param": "messages", "code": None},
    )
    assert details(ConfigError("top_k is -1"))[1]["param"] is None


@pytest.mark.parametrize("error", [SaveError("/secret"), ModelLoadError("/secret"), RuntimeError("/secret")])
def test_other_errors_are_500_without_their_message(error: Exception) -> None:
    status, body = details(error)
    assert (status, body["type"]) == (500, "server_error")
    assert "secret" not in body["message"]


def test_a_full_disk_is_507(tmp_path: Path) -> None:
    error = SaveError(f"{tmp_path} cannot be written")
    error.__cause__ = OSError(errno.ENOSPC, "No space left on device")
    status, body = details(error)
    assert (status, body["code"]) == (507, "storage_full")
    assert str(tmp_path) not in body["message"]


def test_an_api_error_stays_as_it_is() -> None:
    error = unavailable("try later", "loading", 3)
    assert api_error(error) is error
    response = error.response()
    assert (response.status_code, response.headers["retry-after"]) == (503, "3")


def test_messages_with_a_lone_surrogate_can_be_sent() -> None:
    assert rb"\ud800" in bytes(ApiError(400, "\ud800 is unknown").response().body)
