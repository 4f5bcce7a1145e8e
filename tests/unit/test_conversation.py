"""Conversations: what is refused, who speaks, and the border to messages."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
import pytest

from convmodel.conversation import Conversation
from convmodel.errors import ConversationError, ConvModelError

LONE_SURROGATE = "\ud83c"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "empty: it needs at least one turn"),
        ((), "empty: it needs at least one turn"),
        ("Hello", "list of turns, not one string"),
        (7, "list of turns, not int"),
        (None, "list of turns, not NoneType"),
        ({"role": "user", "content": "Hi"}, "list of turns, not dict"),
        (iter(["Hi"]), "list of turns, not list_iterator"),
        (["Hi", ""], "turn 2 is empty"),
        ([" \n\t\u3000"], "turn 1 is empty"),
        (["Hi", None], "turn 2 is NoneType, not a string"),
        (["Hi", 7], "turn 2 is int, not a string"),
        ([["Hi", "Hello"]], "turn 1 is list, not a string"),
        (b"Hi", "turn 1 is int, not a string"),
        (["Hi", f"half a pizza {LONE_SURROGATE}"], "turn 2 contains half a surrogate pair"),
        ([{"role": "user", "content": "Hi"}, "Hello"], "turn 1 is dict, not a string"),
        ([{"role": "user"}], "message 1 needs a role and a content"),
        ([{"role": "user", "content": "Hi"}, {"content": "Hi"}], "message 2 needs a role and a content"),
        ([{"role": "user", "content": None}], "turn 1 is NoneType, not a string"),
        ([{"role": "user", "content": ""}], "turn 1 is empty"),
        ([{"role": None, "content": "Hi"}], "speaker of turn 1 is None, not a name"),
        ([{"role": ["user"], "content": "Hi"}], "speaker of turn 1 is .*, not a name"),
    ],
)
def test_what_is_no_conversation_is_refused_by_name(value: Any, message: str) -> None:
    with pytest.raises(ConversationError, match=message):
        Conversation.of(value)


@pytest.mark.parametrize(
    ("turns", "speakers", "pinned", "message"),
    [
        ("Hello", None, 0, "turns must be a list of strings, not str"),
        (["Hi", "Hello"], ["Ann"], 0, "2 turns, speakers"),
        (["Hi", "Yes"], "AB", 0, "one name per turn"),
        (["Hi"], [""], 0, "speaker of turn 1"),
        (["Hi", "Hello"], ["Ann", 3], 0, "speaker of turn 2 is 3"),
        (["Hi"], None, 2, "pinned is 2, but there are 1 turns"),
        (["Hi"], None, -1, "pinned is -1"),
    ],
)
def test_speakers_and_pinned_turns_must_match_the_turns(
    turns: Sequence[str], speakers: Sequence[str] | None, pinned: int, message: str
) -> None:
    with pytest.raises(ConversationError, match=message):
        Conversation(turns, speakers, pinned=pinned)


def test_its_error_is_a_value_error_and_one_of_ours() -> None:
    assert issubclass(ConversationError, ValueError)
    assert issubclass(ConversationError, ConvModelError)


def test_a_long_string_is_shown_in_part() -> None:
    with pytest.raises(ConversationError) as caught:
        Conversation.of("very " * 1000)
    assert len(str(caught.value)) < 200


@pytest.mark.parametrize("turns", [np.array(["Hi", "Hello"]), pd.Series(["Hi", "Hello"]), ("Hi", np.str_("Hello"))])
def test_arrays_and_series_of_turns_are_lists_of_turns(turns: Any) -> None:
    assert Conversation.of(turns) == Conversation(turns) == Conversation(["Hi", "Hello"])


def test_numbers_and_names_may_be_of_numpy() -> None:
    speakers, weights = np.array(["Ann", "Bob"]), [np.int64(0), np.float32(0.5)]
    assert Conversation(["Hi", "Hello"], speakers, weights=weights) == Conversation(
        ["Hi", "Hello"], ["Ann", "Bob"], weights=[0, 0.5]
    )


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"messages": []}, "not dict: give its messages"),
        ({"turns": ["Hi"]}, "not dict: give its turns"),
        ([["Hi"], ["Hello"]], "turn 1 is list, not a string: it may be one of several conversations"),
        ([{"from": "human", "value": "Hi"}], "message 1 needs a role and a content, not from, value"),
        (pd.DataFrame({"turns": ["Hi"]}), "not DataFrame"),
    ],
)
def test_an_error_names_what_was_given(value: Any, message: str) -> None:
    with pytest.raises(ConversationError, match=message):
        Conversation.of(value)


def test_plain_turns_alternate_between_two_speakers() -> None:
    assert Conversation(["Hi", "Hello", "Well?"]).speakers == ("user", "assistant", "user")


@pytest.mark.parametrize("text", ["Hi", "🍕", "私も", "a\nb", " Hi ", "\u200b", "<|endoftext|>"])
def test_turns_are_kept_to_the_character(text: str) -> None:
    assert Conversation([text]).turns == (text,)


def test_a_conversation_passes_through() -> None:
    conversation = Conversation(["Hi"], ["Ann"])
    assert Conversation.of(conversation) is conversation


def test_it_does_not_change_with_the_list_it_came_from() -> None:
    turns, speakers = ["Hi"], ["Ann"]
    conversation = Conversation(turns, speakers)
    turns.append("Hello")
    speakers[0] = "Bob"
    assert (conversation.turns, conversation.speakers) == (("Hi",), ("Ann",))


def test_names_come_in_order_of_first_appearance() -> None:
    assert Conversation(["a", "b", "c", "d"], ["Bob", "Ann", "Bob", "Cem"]).speaker_names == ("Bob", "Ann", "Cem")


@pytest.mark.parametrize(
    ("roles", "pinned"),
    [
        (["user", "assistant"], 0),
        (["system", "user"], 1),
        (["developer", "persona", "user"], 2),
        (["user", "system"], 0),
        (["system"], 1),
    ],
)
def test_leading_system_messages_are_pinned(roles: list[str], pinned: int) -> None:
    conversation = Conversation.from_messages([{"role": role, "content": "Hi"} for role in roles])
    assert conversation.pinned == pinned
    assert conversation.speakers == tuple(roles)


def test_messages_survive_the_way_there_and_back() -> None:
    messages = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": " 🍕\n"}]
    assert Conversation.of(messages).to_messages() == messages


@pytest.mark.parametrize(
    ("speakers", "pinned", "expected"),
    [
        (["user"], 0, "assistant"),
        (["assistant"], 0, "user"),
        (["user", "assistant"], 0, "user"),
        (["user", "user"], 0, "assistant"),
        (["Ann"], 0, "assistant"),
        (["Ann", "Bob"], 0, "Ann"),
        (["Ann", "Bob", "Bob"], 0, "Ann"),
        (["Ann", "Bob", "Cem"], 0, "Bob"),
        (["Ann", "Bob", "Cem", "Ann"], 0, "Cem"),
        (["system"], 1, "user"),  # whoever speaks first in a plain list
        (["system", "user"], 1, "assistant"),
        (["system", "user", "assistant"], 1, "user"),
        (["Ann", "Bob"], 1, "assistant"),
    ],
)
def test_the_one_who_spoke_last_before_is_expected_next(speakers: list[str], pinned: int, expected: str) -> None:
    assert Conversation(["x"] * len(speakers), speakers, pinned=pinned).next_speaker() == expected


def test_with_turn_adds_one_and_leaves_the_original() -> None:
    conversation = Conversation(["Be kind.", "Hi"], ["system", "user"], pinned=1, id="7")
    longer = conversation.with_turn("Hello").with_turn("Well", "Cem")
    assert longer == Conversation(
        ["Be kind.", "Hi", "Hello", "Well"], ["system", "user", "assistant", "Cem"], pinned=1, id="7"
    )
    assert len(conversation.turns) == 2


@pytest.mark.parametrize(
    ("speakers", "pinned", "turns", "joined_pinned"),
    [
        (["Ann", "Bob", "Ann"], 0, ("a", "b", "c"), 0),
        (["Ann", "Ann", "Bob"], 0, ("a\nb", "c"), 0),
        (["Ann", "Ann", "Ann"], 0, ("a\nb\nc",), 0),
        (["Ann", "Bob", "Bob"], 0, ("a", "b\nc"), 0),
        (["sys", "sys", "Ann"], 2, ("a\nb", "c"), 1),
        (["Ann", "Ann", "Bob"], 1, ("a", "b", "c"), 1),
        (["Ann", "Ann", "Ann"], 2, ("a\nb", "c"), 1),
    ],
)
def test_joined_makes_one_turn_of_consecutive_ones(
    speakers: list[str], pinned: int, turns: tuple[str, ...], joined_pinned: int
) -> None:
    joined = Conversation(["a", "b", "c"], speakers, pinned=pinned, id="7").joined()
    assert (joined.turns, joined.pinned, joined.id) == (turns, joined_pinned, "7")


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        ([1], "one number per turn: 2 turns, weights .1.$"),
        (0.5, "one number per turn: 2 turns, weights 0.5"),
        ("ab", "weight of turn 1 is 'a': it must be a number of at least 0"),
        ([1, -0.1], "weight of turn 2 is -0.1: it must be a number of at least 0"),
        ([True, 1], "weight of turn 1 is True"),
        ([1, None], "weight of turn 2 is None"),
        ([1, math.nan], "weight of turn 2 is nan"),
        ([math.inf, 1], "weight of turn 1 is inf"),
        ([1, 10**400], "weight of turn 2 is 1000"),
    ],
)
def test_weights_are_finite_numbers_from_0_up(weights: Any, message: str) -> None:
    with pytest.raises(ConversationError, match=message):
        Conversation(["Hi", "Hello"], weights=weights)


def test_weights_make_a_difference_unless_all_are_1() -> None:
    turns = ["Hi", "Hello"]
    assert Conversation(turns, weights=[1, 1.0]) == Conversation(turns)
    assert Conversation(turns, weights=[1, 0]) == Conversation(turns, weights=(1.0, 0.0))
    assert len({Conversation(turns), Conversation(turns, weights=[1, 0]), Conversation(turns, weights=[0, 1])}) == 3
    assert Conversation(turns, weights=[1, 0]).turn_weights == (1, 0)


def test_a_further_turn_weighs_1() -> None:
    assert Conversation(["Hi"], weights=[0]).with_turn("Hello").weights == (0, 1)
    assert Conversation(["Hi"]).with_turn("Hello").weights is None


def test_weights_of_messages_survive_the_way_there_and_back() -> None:
    messages = [{"role": "user", "content": "Hi", "weight": 0.5}, {"role": "assistant", "content": "Yes", "weight": 1}]
    assert Conversation.of(messages).weights == (0.5, 1)
    assert Conversation.of(messages).to_messages() == messages
    messages[1]["weight"] = None
    assert Conversation.of(messages).weights == (0.5, 1)


def test_joined_turns_keep_their_common_weight() -> None:
    speakers = ["Ann", "Ann", "Bob", "Ann"]
    assert Conversation(list("abcd"), speakers, weights=[0.5, 0.5, 0, 1]).joined().weights == (0.5, 0, 1)


@pytest.mark.parametrize(("pinned", "weights"), [(0, [1, 1, 1]), (2, [0, 1, 2]), (1, [0, 1, 2])])
def test_turns_that_are_not_joined_and_pinned_ones_may_weigh_what_they_like(pinned: int, weights: list[float]) -> None:
    conversation = Conversation(list("abc"), ["Ann", "Ann", "Bob"], pinned=pinned, weights=weights)
    assert conversation.joined().turn_weights[-1] == weights[-1]


def test_turns_of_different_weights_do_not_become_one() -> None:
    with pytest.raises(ConversationError, match=r"turns 2 to 4, all by 'Bob', .* weights differ \(1, 1, 0.5\): give"):
        Conversation(list("abcd"), ["Ann", "Bob", "Bob", "Bob"], weights=[0, 1, 1, 0.5]).joined()
