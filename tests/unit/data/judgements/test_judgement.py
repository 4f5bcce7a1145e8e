"""Judgements: what they hold, what they refuse, and their line."""

from typing import Any

import pytest

from convmodel.conversation import LONGEST_TURN, Conversation
from convmodel.data.judgements.judgement import KINDS, Judgement
from convmodel.data.reading.judged_row import REGENERATION
from convmodel.errors import ConversationError

CONTEXT = Conversation(["Be kind.", "Hi"], ["system", "Ann"], pinned=1)


def test_a_judgement_comes_back_from_its_line() -> None:
    judgement = Judgement(
        CONTEXT, "Bob", "Hello", "Go", kind="edit", model="m", fingerprint="gpt2 1f", at="2026-01-01", weight=0.5
    )

    line = judgement.to_dict()

    assert Judgement.from_dict(line) == judgement
    assert list(line) == [
        "context", "responder", "chosen", "rejected", "kind", "model", "fingerprint", "at", "weight"
    ]  # fmt: skip


def test_a_line_has_neither_what_is_unknown_nor_weights_of_the_context() -> None:
    judgement = Judgement(Conversation(["Hi"], weights=[0]), "assistant", rejected="Go", kind="thumb")

    assert judgement.to_dict() == {
        "context": [{"role": "user", "content": "Hi"}], "responder": "assistant", "rejected": "Go", "kind": "thumb"
    }  # fmt: skip


def test_a_response_continues_the_context() -> None:
    judgement = Judgement(CONTEXT, "Bob", "Hello", "Go")

    assert judgement.is_pair
    assert judgement.conversation("Go").turns == ("Be kind.", "Hi", "Go")
    assert judgement.conversation("Go").turn_speakers == ("system", "Ann", "Bob")
    assert not Judgement(CONTEXT, "Bob", "Hello").is_pair


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "a judgement has no response: give chosen, rejected or both"),
        ({"chosen": " "}, "chosen is ' ': a response is a text that is not blank"),
        ({"chosen": "a", "rejected": ""}, "rejected is ''"),
        ({"rejected": 3}, "rejected is 3"),
        ({"chosen": "a" * (LONGEST_TURN + 1)}, "chosen: turn 1 has 4,194,305 characters"),
        ({"chosen": "\ud800"}, "chosen: turn 1 contains half a surrogate pair"),
        ({"chosen": "a", "responder": " "}, "responder is ' ', not the name of a speaker"),
        ({"chosen": "a", "responder": None}, "responder is None"),
        ({"chosen": "a", "responder": "Ann"}, "the context ends with a turn of Ann, who responds"),
        ({"chosen": "a", "kind": "star"}, "kind is 'star': it must be one of thumb, edit, vote, regeneration, pair"),
        ({"chosen": "a", "kind": ["thumb"]}, "kind is"),
        ({"chosen": "a", "model": 3}, "model is 3: it must be a text"),
        ({"chosen": "a", "at": 3}, "at is 3: it must be a text"),
        ({"chosen": "a", "weight": -1}, "weight is -1: it must be a number of at least 0"),
        ({"chosen": "a", "weight": float("nan")}, "weight is nan"),
        ({"chosen": "a", "weight": True}, "weight is True"),
    ],
)
def test_what_is_no_judgement_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ConversationError, match=message):
        Judgement(**({"context": CONTEXT, "responder": "Bob"} | fields))


def test_a_vote_for_neither_is_no_judgement() -> None:
    with pytest.raises(ConversationError, match="neither response is better"):
        Judgement.from_dict({"context": ["Hi"], "tie": ["a", "b"], "kind": "vote"})


def test_the_kind_without_a_weight_is_a_kind() -> None:
    assert REGENERATION in KINDS
