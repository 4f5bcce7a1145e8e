"""Requests of feedback and votes as judgements."""

from typing import Any

import pytest
from pydantic import ValidationError

from convmodel.conversation import Conversation
from convmodel.data.judgements.judgement import Judgement
from convmodel.server.api.feedback import FeedbackRequest, VoteRequest, requested_judgement
from convmodel.server.errors import ApiError

MESSAGES = [{"role": "user", "content": "Hi", "name": "Ann"}, {"role": "assistant", "content": "Go away"}]
WHOLE = Conversation(["Hi", "Go away"], ["Ann", "assistant"])


@pytest.mark.parametrize(
    ("fields", "kind", "chosen", "rejected"),
    [
        ({"rating": "up"}, "thumb", "Go away", None),
        ({"rating": "down"}, "thumb", None, "Go away"),
        ({"rating": "down", "should_have_said": "Hello!"}, "edit", "Hello!", "Go away"),
        ({"should_have_said": "Hello!"}, "edit", "Hello!", "Go away"),
        ({"kind": "regeneration", "rejected": "Hm"}, "regeneration", "Go away", "Hm"),
    ],
)
def test_each_request_is_the_judgement_that_it_means(
    fields: dict[str, str], kind: str, chosen: str | None, rejected: str | None
) -> None:
    body = FeedbackRequest.model_validate({"model": "m", "messages": MESSAGES} | fields)

    judgement = requested_judgement(body, WHOLE)

    context = Conversation(["Hi"], ["Ann"])
    assert judgement.at
    assert judgement == Judgement(
        context, "assistant", chosen, rejected, kind=kind, model="m", at=judgement.at
    )  # fmt: skip


def test_the_name_of_a_model_that_did_not_write_the_response_is_left_out() -> None:
    fields = {"model": "m", "messages": MESSAGES, "rating": "up", "generated": False}
    assert requested_judgement(FeedbackRequest.model_validate(fields), WHOLE).model == ""


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "give a rating"),
        ({"kind": "regeneration"}, "a regeneration has kind and rejected"),
        ({"rejected": "Hm", "rating": "up"}, "a regeneration has kind and rejected"),
        ({"kind": "regeneration", "rejected": "Hm", "rating": "up"}, "a regeneration has kind and rejected"),
        ({"kind": "vote", "rejected": "Hm"}, "regeneration"),
        ({"kind": "regeneration", "rejected": " "}, "pattern"),
    ],
)
def test_what_says_nothing_or_too_much_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        FeedbackRequest.model_validate({"model": "m", "messages": MESSAGES} | fields)


@pytest.mark.parametrize(
    ("conversation", "message"),
    [
        (Conversation(["Hi"]), "no context before the response"),
        (Conversation(["Hi", "Hey"], ["Ann", "Ann"]), "the context ends with a turn of Ann, who responds"),
    ],
)
def test_what_is_no_response_to_anything_is_refused(conversation: Conversation, message: str) -> None:
    body = FeedbackRequest.model_validate({"model": "m", "messages": MESSAGES, "rating": "up"})

    with pytest.raises(ApiError, match=message) as refused:
        requested_judgement(body, conversation)
    assert (refused.value.status, refused.value.envelope["error"]["param"]) == (400, "messages")


VOTE = {"models": ["A", "B"], "responses": ["x", "y"], "winner": "A"}


def test_the_context_of_a_vote_is_messages_or_texts() -> None:
    system, blank = {"role": "system", "content": "Be kind."}, {"role": "assistant", "content": " "}
    messages = [system, MESSAGES[0], blank, {"role": "user", "content": "Hm?"}]

    body = VoteRequest.model_validate(VOTE | {"context": messages})

    assert body.conversation() == Conversation(["Be kind.", "Hi", "Hm?"], ["system", "Ann", "user"], pinned=1)
    assert VoteRequest.model_validate(VOTE | {"context": ["Hi"]}).conversation() == Conversation(["Hi"])


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"context": ["Hi", MESSAGES[1]]}, "a list of messages, or a list of texts"),
        ({"context": ["Hi"], "responses": ["", " "]}, "both responses are blank, so that winner must be null"),
    ],
)
def test_what_is_no_vote_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        VoteRequest.model_validate(VOTE | fields)


@pytest.mark.parametrize("context", [[" "], [{"role": "assistant", "content": ""}]])
def test_a_context_without_text_is_refused(context: Any) -> None:
    with pytest.raises(ApiError, match="context: ") as refused:
        VoteRequest.model_validate(VOTE | {"context": context}).conversation()
    assert refused.value.envelope["error"]["param"] == "context"
