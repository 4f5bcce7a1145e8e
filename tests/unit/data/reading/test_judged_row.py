"""What a judged row becomes as a conversation, and the parts of rows."""

from typing import Any

import pytest

from convmodel.conversation import Conversation
from convmodel.data.reading.judged_row import JudgedRow, message_list, require_other_speaker, split_last, two_texts
from convmodel.errors import ConversationError

CONTEXT = Conversation(["Hi"])


@pytest.mark.parametrize(
    ("row", "text", "weight"),
    [
        (JudgedRow(CONTEXT, "assistant", "good"), "good", 1),
        (JudgedRow(CONTEXT, "assistant", "good", "bad"), "good", 1),
        (JudgedRow(CONTEXT, "assistant", rejected="bad"), "bad", 0),
        (JudgedRow(CONTEXT, "assistant", "one", "other", undecided=True), "one", 0),
        (JudgedRow(CONTEXT, "assistant", "good", facts={"weight": 0.5}), "good", 0.5),
        (JudgedRow(CONTEXT, "assistant", "new", "old", facts={"kind": "regeneration"}), "new", 0),
        (JudgedRow(CONTEXT, "assistant", "new", "old", facts={"kind": "regeneration", "weight": 2}), "new", 2),
    ],
)
def test_only_a_good_response_counts_in_training(row: JudgedRow, text: str, weight: float) -> None:
    assert row.conversation() == Conversation(["Hi", text], weights=[0, weight])


def test_the_last_turn_is_the_response_and_weights_end_with_it() -> None:
    whole = Conversation(["Be kind.", "Hi", "Hello"], ["system", "Ann", "Bob"], pinned=1, weights=[0, 0, 1])

    context, response = split_last(whole)

    assert (context, response) == (Conversation(["Be kind.", "Hi"], ["system", "Ann"], pinned=1), "Hello")
    assert context.weights is None


def test_one_turn_has_no_context() -> None:
    with pytest.raises(ConversationError, match="no context before the response"):
        split_last(CONTEXT)


def test_a_responder_does_not_continue_the_own_turn() -> None:
    with pytest.raises(ConversationError, match="ends with a turn of user, who responds: remove that turn"):
        require_other_speaker(CONTEXT, "user")
    require_other_speaker(CONTEXT, "assistant")
    require_other_speaker(Conversation(["Be kind."], ["system"], pinned=1), "system")


@pytest.mark.parametrize("value", ["Hi", [], None, 3])
def test_messages_are_a_list(value: Any) -> None:
    with pytest.raises(ConversationError, match=r"chosen is .*: write a list of messages"):
        message_list(value, "chosen")
    assert message_list({"role": "user"}, "chosen") == [{"role": "user"}]


@pytest.mark.parametrize("value", ["ab", ["a"], ["a", "b", "c"], ["a", 1], None])
def test_two_texts_are_needed(value: Any) -> None:
    with pytest.raises(ConversationError, match=r"tie is .*: write a list of two texts"):
        two_texts(value, "tie")
    assert two_texts(("a", "b"), "tie") == ("a", "b")
