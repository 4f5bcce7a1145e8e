"""Each error becomes a status and a message for clients."""

from typing import Any

import pytest

from convmodel.errors import ConfigError, ContextTooLongError, ConversationError, ModelLoadError, SaveError
from convmodel.server.errors import ApiError, api_error, unavailable


def details(error: Exception) -> tuple[int, dict[str, Any]]:
    converted = api_error(error)
    return converted.status, converted.envelope["error"]


def test_a_context_that_is_too_long_gets_advice_for_clients() -> None:
    status, error = details(ContextTooLongError("the newest turn; it has 9 tokens", "or set cut_long_turn=True"))
    assert (status, error["param"], error["code"]) == (400, "messages", "context_length_exceeded")
    assert error["message"] == "the newest turn; it has 9 tokens: shorten it, or request fewer new tokens"


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


def test_an_api_error_stays_as_it_is() -> None:
    error = unavailable("try later", "loading", 3)
    assert api_error(error) is error
    response = error.response()
    assert (response.status_code, response.headers["retry-after"]) == (503, "3")


def test_messages_with_a_lone_surrogate_can_be_sent() -> None:
    assert rb"\ud800" in bytes(ApiError(400, "\ud800 is unknown").response().body)
