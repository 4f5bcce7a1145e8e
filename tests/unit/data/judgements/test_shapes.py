"""Values that are judgements, and why others are not."""

from typing import Any

import pytest

from convmodel.conversation import Conversation
from convmodel.data.judgements.judgement import Judgement
from convmodel.data.judgements.shapes import is_judgement, judgement_of
from convmodel.errors import ConversationError

JUDGEMENT = Judgement(Conversation(["Hi"]), "assistant", "Hello", "Go", kind="edit", model="m", at="now", weight=2)


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (JUDGEMENT, JUDGEMENT),
        (JUDGEMENT.to_dict(), JUDGEMENT),
        ({"prompt": "Hi", "chosen": "Hello"}, Judgement(Conversation(["Hi"]), "assistant", "Hello")),
        (
            {"context": ["Hi"], "models": ["A", "B"], "responses": ["Go", "Hello"], "winner": "B"},
            Judgement(Conversation(["Hi"]), "assistant", "Hello", "Go", kind="vote", model="B"),
        ),
        ({"context": ["Hi"], "models": ["A", "B"], "responses": ["", ""], "winner": None}, None),
        ({"context": ["Hi"], "tie": ["Go", ""], "models": ["A", "B"], "kind": "vote"}, None),
    ],
)
def test_judgements_are_recognised_and_undecided_ones_are_none(value: Any, expected: Judgement | None) -> None:
    assert is_judgement(value)
    assert judgement_of(value) == expected


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"turns": ["Hi", "Hello"]}, r"a conversation \(turns\) is not a judgement: write {\"context\""),
        ({"prompt": "Hi", "response": "Hello"}, r"a conversation \(pairs\) is not a judgement"),
        (["Hi", "Hello"], r"a conversation \(turns\) is not a judgement"),
        ("Hi", "'Hi' is not a judgement"),
        (None, "None is not a judgement"),
        ({"chosen": "Hello"}, "no judgement in an object with chosen"),
        ({"chosen": "Hello", "rejected": "Go", "context": None}, "no judgement in an object with chosen, rejected"),
        ({"context": ["Hi"]}, "no judgement in an object with context"),
    ],
)
def test_other_values_are_errors_that_say_what_they_are(value: Any, message: str) -> None:
    assert not is_judgement(value) or value["context"] is None
    with pytest.raises(ConversationError, match=message):
        judgement_of(value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"kind": "star"}, "kind is 'star'"),
        ({"chosen": " "}, "chosen is ' '"),
        ({"weight": "much"}, "weight is 'much'"),
        ({"responder": "user"}, "ends with a turn of user"),
    ],
)
def test_malformed_judgements_are_errors(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConversationError, match=message):
        judgement_of(JUDGEMENT.to_dict() | change)
