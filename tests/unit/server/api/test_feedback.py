"""Feedback as a line of training data."""

import pytest
from pydantic import ValidationError

from convmodel.server.api.feedback import FeedbackRequest, feedback_record

MESSAGES = [{"role": "user", "content": "Hi", "name": "Ann"}, {"role": "assistant", "content": "Go away"}]


@pytest.mark.parametrize(
    ("rating", "correction", "text", "weight"),
    [("up", None, "Go away", 1), ("down", None, "Go away", 0), ("down", "Hello!", "Hello!", 1)],
)
def test_only_a_good_response_has_a_weight(rating: str, correction: str | None, text: str, weight: int) -> None:
    body = {"model": "m", "messages": MESSAGES, "rating": rating, "should_have_said": correction}
    record = feedback_record(FeedbackRequest.model_validate(body))
    assert record["messages"] == [
        {"role": "Ann", "content": "Hi", "weight": 0},
        {"role": "assistant", "content": text, "weight": weight},
    ]
    assert (record["rating"], record.get("said")) == (rating, "Go away" if correction else None)


def test_a_judgement_is_needed() -> None:
    with pytest.raises(ValidationError, match="give a rating"):
        FeedbackRequest.model_validate({"model": "m", "messages": MESSAGES})
