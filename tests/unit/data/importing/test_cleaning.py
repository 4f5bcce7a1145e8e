"""Cleaning: what is left out and for which reason, and that the account adds up."""

import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convmodel.conversation import Conversation
from convmodel.data.importing.cleaning import Cleaner, CleaningRules
from convmodel.errors import ConfigError, MissingExtraError

LONG = "I walked along the river until the old mill and had a cup of tea there before the rain began"


def dropped(rules: CleaningRules, *conversations: Conversation) -> dict[str, int]:
    cleaner = Cleaner(rules)
    assert len(list(cleaner.clean(conversations))) == cleaner.rows_in - cleaner.dropped.total()
    return dict(cleaner.dropped)


@pytest.mark.parametrize(
    ("rules", "fits", "fails", "reason"),
    [
        ({}, Conversation(["Hi", "Yes"]), Conversation(["Hi"]), "fewer than 2 turns"),
        ({"min_turns": 3}, Conversation(["a", "b", "c"]), Conversation(["a", "b"]), "fewer than 3 turns"),
        (
            {"min_turns": 1, "min_speakers": 1},
            Conversation(["Be kind.", "Hi"], pinned=1),
            Conversation(["Be kind."], pinned=1),
            "fewer than 1 turn",
        ),
        ({}, Conversation(["s", "a", "b"], pinned=1), Conversation(["s", "a"], pinned=1), "fewer than 2 turns"),
        ({"max_turns": 2}, Conversation(["s", "a", "b"], pinned=1), Conversation(["a"] * 3), "longer than 2 turns"),
        ({"max_chars": 5}, Conversation(["abc", "de"]), Conversation(["abc", "def"]), "longer than 5 characters"),
        ({}, Conversation(["a", "b"], ["Ann", "Bob"]), Conversation(["a", "b"], ["Ann"] * 2), "fewer than 2 speakers"),
        (
            {},
            Conversation(["s", "a", "b"], ["system", "user", "assistant"], 1),
            Conversation(["s", "a", "b"], ["system", "user", "user"], 1),
            "fewer than 2 speakers",
        ),
        ({"min_speakers": 1}, Conversation(["a", "b"], ["Ann"] * 2), Conversation(["a"]), "fewer than 2 turns"),
    ],
)
def test_each_rule_has_its_reason(rules: dict[str, Any], fits: Conversation, fails: Conversation, reason: str) -> None:
    cleaner = Cleaner(CleaningRules(**rules))

    assert list(cleaner.clean([fails, fits, fails])) == [fits]
    assert cleaner.dropped == {reason: 2}
    assert (cleaner.rows_in, cleaner.dropped.total()) == (3, 2)


REPEATS = [
    Conversation([LONG, "How nice"]),
    Conversation([LONG.upper(), "How  nice"]),
    Conversation([LONG, "How lovely"]),
    Conversation(["Something else", "How nice"]),
]


@pytest.mark.parametrize(
    ("rules", "expected"),
    [
        (CleaningRules(), {"exact duplicate": 1, "near-duplicate": 1}),
        (CleaningRules(near_duplicates=0.99), {"exact duplicate": 1}),
        (CleaningRules(near_duplicates=None), {"exact duplicate": 1}),
        (CleaningRules(deduplicate=False), {}),
    ],
)
def test_duplicates_are_left_out_as_far_as_asked(rules: CleaningRules, expected: dict[str, int]) -> None:
    assert dropped(rules, *REPEATS) == expected


def test_the_first_is_kept_of_those_that_repeat_each_other() -> None:
    kept = list(Cleaner().clean(REPEATS))

    assert kept == [REPEATS[0], REPEATS[3]]


def test_duplicates_are_found_across_files() -> None:
    cleaner = Cleaner()

    first, second = list(cleaner.clean(REPEATS)), list(cleaner.clean(REPEATS))

    assert (len(first), len(second)) == (2, 0)
    assert (cleaner.rows_in, cleaner.dropped.total()) == (8, 6)


def test_what_does_not_fit_is_nobodys_original() -> None:
    once, again = Conversation(["Hi", "Yes", "No"]), Conversation(["Hi", "Yes", "No"], ["Ann", "Bob", "Ann"])

    assert dropped(CleaningRules(max_turns=2), once, again) == {"longer than 2 turns": 2}


def test_masks_come_last_and_are_counted() -> None:
    cleaner = Cleaner(CleaningRules(redact=True))
    chats = [
        Conversation([f"Write to {name}@example.org", "I will, Ann"], ["Ann", "Bob"]) for name in ("ann", "ann", "bob")
    ]

    kept = list(cleaner.clean(chats))

    assert [chat.turns for chat in kept] == [("Write to [EMAIL]", "I will, Speaker 1")]
    assert cleaner.dropped == {"exact duplicate": 1, "exact duplicate once masked": 1}
    assert cleaner.masked == {"email": 2, "name": 2}


def test_nothing_is_masked_unless_asked_for() -> None:
    cleaner = Cleaner()
    chat = Conversation(["ann@example.org", "Thanks, Ann"], ["Ann", "Bob"])

    assert list(cleaner.clean([chat])) == [chat]
    assert not cleaner.masked


def test_conversations_are_read_one_at_a_time() -> None:
    cleaner = Cleaner()
    kept = cleaner.clean(Conversation([f"Hi {number}", "Yes"]) for number in range(10**9))

    assert next(kept).turns[0] == "Hi 0"
    assert next(kept).turns[0] == "Hi 1"
    assert (cleaner.rows_in, cleaner.dropped.total()) == (2, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"min_turns": 0}, "min_turns is 0: it must be a positive integer"),
        ({"min_turns": None}, "min_turns is None: it must be"),
        ({"max_turns": 2.5}, "max_turns is 2.5: it must be"),
        ({"max_chars": -1}, "max_chars is -1: it must be"),
        ({"min_speakers": True}, "min_speakers is True: it must be"),
        ({"min_turns": 4, "max_turns": 3}, "max_turns is 3, less than min_turns, which is 4"),
        ({"near_duplicates": 0.2}, "near_duplicates is 0.2: it must be from 0.5 to 1, or None"),
        ({"near_duplicates": "0.8"}, "near_duplicates is '0.8': it must be"),
    ],
)
def test_rules_are_checked(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        CleaningRules(**options)

    assert str(caught.value).startswith(message)


def test_datasketch_is_asked_for_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasketch", None)

    assert Cleaner(CleaningRules(deduplicate=False))
    assert Cleaner(CleaningRules(near_duplicates=None))
    with pytest.raises(MissingExtraError, match="datasketch"):
        Cleaner()


talks = st.lists(
    st.tuples(
        st.lists(st.sampled_from(["Hi", "hi", "Yes", LONG, LONG + "!", LONG + " there"]), min_size=1, max_size=4)
    ),
    max_size=12,
)


@given(talks, st.booleans(), st.booleans(), st.sampled_from([None, 0.5, 0.8, 1.0]))
def test_the_account_adds_up(said: list[tuple[list[str]]], deduplicate: bool, redact: bool, near: float | None) -> None:
    rules = CleaningRules(max_turns=3, max_chars=250, deduplicate=deduplicate, near_duplicates=near, redact=redact)
    cleaner = Cleaner(rules)
    chats = [Conversation(turns, id=str(number)) for number, (turns,) in enumerate(said)]

    kept = [int(chat.id or "") for chat in cleaner.clean(chats)]

    assert cleaner.rows_in == len(chats) == len(kept) + cleaner.dropped.total()
    assert kept == sorted(set(kept))
    assert list(Cleaner(rules).clean([chats[number] for number in kept])) == [chats[number] for number in kept]
