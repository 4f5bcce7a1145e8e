"""Fields beside the messages: a system message, a prompt and what belongs to it."""

import pytest

from convmodel.conversation import Conversation
from convmodel.data.reading.fields import full_text, has_details, with_system
from convmodel.errors import ConversationError


def test_a_system_message_comes_first_and_is_pinned() -> None:
    conversation = Conversation(["Hi", "Hello"], weights=[0, 1])

    whole = with_system(conversation, {"system_prompt": "Be kind."})

    assert whole == Conversation(
        ["Be kind.", "Hi", "Hello"], ["system", "user", "assistant"], pinned=1, weights=[1, 0, 1]
    )


@pytest.mark.parametrize("system", [None, "", " ", 3])
def test_what_is_no_text_is_no_system_message(system: object) -> None:
    assert with_system(Conversation(["Hi"]), {"system": system}) == Conversation(["Hi"])


def test_a_system_message_among_the_messages_stays_the_only_one() -> None:
    conversation = Conversation(["Be brief.", "Hi"], ["system", "user"], pinned=1)

    assert with_system(conversation, {"system": "Be kind."}) == conversation


def test_a_question_is_followed_by_its_text() -> None:
    assert full_text({"question": "Who?", "context": "Ann sings."}, "question") == "Who?\nAnn sings."
    assert full_text({"prompt": "Who?", "context": "Ann sings."}, "prompt") == "Who?"
    assert has_details({"instruction": "Add.", "input": "1, 2"}, "instruction")
    assert not has_details({"instruction": "Add.", "input": " "}, "instruction")


@pytest.mark.parametrize("value", [{"instruction": "Add.", "input": [1, 2]}, {"instruction": None}])
def test_what_is_not_text_is_an_error(value: dict[str, object]) -> None:
    with pytest.raises(ConversationError, match="neither text nor a list of messages"):
        full_text(value, "instruction")
