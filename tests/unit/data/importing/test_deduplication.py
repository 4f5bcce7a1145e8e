"""Similarity: what counts as the same, what the index finds, and that it finds what comparing all pairs would."""

import random
import sys
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from convmodel.conversation import Conversation
from convmodel.data.importing.deduplication import (
    NEAR,
    Duplicates,
    Match,
    available_near,
    groups,
    jaccard,
    normalized,
    shingles,
)
from convmodel.errors import ConfigError, MissingExtraError

STORY = [
    "Have you been to the new bakery at the corner of Mill Street yet?",
    "Not yet, but my sister says that their rye bread is the best in town.",
    "It is, and they sell yesterday's loaves for half the price in the morning.",
    "Then I will get up early on Saturday and bring us some for breakfast.",
]


def story(*changes: tuple[str, str], id: str | None = None) -> Conversation:
    """The story with some words changed."""
    text = "\n".join(STORY)
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    return Conversation(text.split("\n"), id=id)


def random_talks(count: int, seed: int) -> list[Conversation]:
    """Conversations of random words, and copies of them with up to a few words changed."""
    chance = random.Random(seed)
    talks: list[list[str]] = []
    for _ in range(count):
        if talks and chance.random() < 0.6:
            words = list(chance.choice(talks))
            for _ in range(chance.randrange(4)):
                words[chance.randrange(len(words))] = f"w{chance.randrange(1000)}"
        else:
            words = [f"w{chance.randrange(1000)}" for _ in range(chance.randrange(5, 60))]
        talks.append(words)
    return [Conversation([" ".join(words)]) for words in talks]


@pytest.mark.parametrize(
    ("turn", "expected"),
    [
        ("  Good\n\tMORNING ", "good morning"),
        ("\uff28\uff49\u3000\uff71", "hi ア"),
        ("STRASSE straße", "strasse strasse"),
        ("e\u0301", "é"),
    ],
)
def test_turns_are_compared_without_form_case_and_spaces(turn: str, expected: str) -> None:
    assert normalized(turn) == expected


@pytest.mark.parametrize(
    ("turns", "count"),
    [
        (["Hi"], 0),
        (["one two"], 0),
        (["one two three"], 1),
        (["one two", "three four"], 2),
        (["a b c a b c a b c"], 3),
        (["don't stop"], 1),
        (["おはよう"], 2),
        (["你好吗", "很好"], 3),
        (["สวัสดี"], 4),
        (["Привет как дела"], 1),
        (["🙂🙂🙂 !!! ..."], 0),
    ],
)
def test_shingles_are_three_words_or_three_characters_where_no_spaces_are(turns: list[str], count: int) -> None:
    assert len(shingles(Conversation(turns))) == count


def test_shingles_depend_on_the_order_of_words_only() -> None:
    one, other = shingles(Conversation(["one two three"])), shingles(Conversation(["three two one"]))

    assert one.tolist() == shingles(Conversation(["ONE -- two,", "three!"])).tolist() != other.tolist()
    assert one.dtype == np.uint32


@pytest.mark.parametrize(
    ("some", "others", "expected"),
    [([1, 2, 3], [2, 3, 4], 0.5), ([1], [2], 0.0), ([1], [1], 1.0), ([], [], 0.0), ([], [1], 0.0)],
)
def test_jaccard(some: list[int], others: list[int], expected: float) -> None:
    assert jaccard(np.array(some, np.uint32), np.array(others, np.uint32)) == expected


def test_the_best_match_comes_first_and_tells_how_like_it_is() -> None:
    duplicates = Duplicates()
    for talk in (story(("town", "village"), id="near"), Conversation(["Hello", "Hi"], id="other"), story(id="same")):
        duplicates.add(talk)

    [exact, near] = duplicates.matches(story(("Saturday", "SATURDAY")))

    assert exact == Match(2, "same", 1.0, exact=True)
    assert near == Match(0, "near", 53 / 59, exact=False)


def test_the_threshold_decides() -> None:
    changed = story(("town", "village"))  # in 3 of 56 triples each

    assert groups([story(), changed], near=53 / 59) == [[0, 1]]
    assert groups([story(), changed], near=0.9) == [[0], [1]]
    assert groups([story(), changed], near=None) == [[0], [1]]


def test_speakers_and_cuts_between_turns_do_not_matter_to_near_duplicates() -> None:
    named = Conversation(STORY, ["Ann", "Bob", "Ann", "Cem"])
    joined = Conversation([" ".join(STORY)])

    matches = [Duplicates.seen(duplicates := Duplicates(), story()), duplicates.seen(named), duplicates.seen(joined)]

    assert matches == [None, Match(0, None, 1.0, exact=True), Match(0, None, 1.0, exact=False)]


@pytest.mark.parametrize(
    ("one", "other", "expected"),
    [
        (["Hi", "Hello"], ["Hi", "Hello!"], None),
        (["Hi", "Hello"], ["hi ", "HELLO"], True),
        (["Hi", "Hello"], ["Hi Hello"], None),
        (["one two three four"], ["one two", "three four"], None),
        (["one two three four five"], ["one two", "three four five"], False),
    ],
)
def test_the_shortest_are_duplicates_only_if_they_are_equal(
    one: list[str], other: list[str], expected: bool | None
) -> None:
    duplicates = Duplicates()
    duplicates.add(Conversation(one))

    match = duplicates.seen(Conversation(other))

    assert (match and match.exact) == expected


def test_a_shared_system_message_does_not_make_duplicates() -> None:
    rules = " ".join(f"Rule {number} is to be kind to everybody." for number in range(50))
    chats = [
        Conversation([rules, talk, "Yes, of course I am"], pinned=1) for talk in ("Are you at home?", "Is it you?")
    ]

    assert groups(chats) == [[0], [1]]


def test_the_same_talk_under_another_system_message_is_a_near_duplicate() -> None:
    chats = [Conversation([persona, *STORY], pinned=1) for persona in ("I am a baker.", "I like to sleep.")]

    assert groups(chats) == [[0, 1]]


def test_what_repeats_is_not_compared_with_later() -> None:
    duplicates = Duplicates(near=None)

    found = [duplicates.seen(Conversation([turn], id=turn)) for turn in ("a", "A", "b", "B ", "c")]

    assert [match and match.id for match in found] == [None, "a", None, "b", None]


def test_groups_reach_through_others() -> None:
    steps = [("town", "village"), ("Saturday", "Sunday"), ("sister", "brother"), ("half", "third")]
    chain = [story(*steps[:length]) for length in range(5)]

    ends = jaccard(shingles(chain[0]), shingles(chain[4]))

    assert ends < 0.85
    assert groups([chain[0], chain[4]], near=0.85) == [[0], [1]]
    assert groups([chain[0], chain[4], Conversation(["Hi"]), chain[2], chain[1], chain[3]], near=0.85) == [
        [0, 1, 3, 4, 5],
        [2],
    ]


@pytest.mark.parametrize("near", [0.5, 0.6, 0.7, 0.8, 0.9, 1.0])
def test_the_index_finds_what_comparing_all_pairs_finds(near: float) -> None:
    talks = random_talks(120, seed=7)
    sets = [shingles(talk) for talk in talks]
    expected = {
        (one, other)
        for one, other in combinations(range(len(talks)), 2)
        if min(len(sets[one]), len(sets[other])) >= 3 and jaccard(sets[one], sets[other]) >= near
    }

    duplicates = Duplicates(near)
    found = set()
    for number, talk in enumerate(talks):
        found |= {(match.number, number) for match in duplicates.matches(talk)}
        if not any(match.exact for match in duplicates.matches(talk)):
            duplicates.add(talk)
        else:
            duplicates.add(Conversation([f"copy {number}"]))  # equal ones are found through their first

    copies = {number for number in range(len(talks)) if talks[number] in talks[:number]}
    assert len(expected) > 20
    assert found == {(one, other) for one, other in expected if one not in copies}


@given(st.lists(st.lists(st.sampled_from("abc"), min_size=1, max_size=9), min_size=1, max_size=8))
def test_groups_hold_every_conversation_once_and_only_connected_ones(talks: list[list[str]]) -> None:
    conversations = [Conversation([" ".join(words)]) for words in talks]

    found = groups(conversations, near=0.6)

    assert sorted(number for group in found for number in group) == list(range(len(talks)))
    assert [group[0] for group in found] == sorted(group[0] for group in found)
    for group in found:
        assert group == sorted(group)
        for number in group:
            mine = shingles(conversations[number])
            assert len(group) == 1 or any(
                talks[number] == talks[other] or jaccard(mine, shingles(conversations[other])) >= 0.6
                for other in group
                if other != number
            )


def test_copies_are_not_compared_with_each_other() -> None:
    assert len(groups([story()] * 2000)) == 1


@pytest.mark.parametrize("near", [0.49, 1.01, "0.8", True, float("nan")])
def test_the_threshold_is_checked(near: float) -> None:
    with pytest.raises(ConfigError, match=r"^near is .*: it must be from 0.5 to 1, or None"):
        Duplicates(near)


def test_datasketch_is_asked_for_only_where_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert available_near() == NEAR
    monkeypatch.setitem(sys.modules, "datasketch", None)

    assert available_near() is None
    assert groups([story(), story()], near=None) == [[0, 1]]
    with pytest.raises(MissingExtraError, match=r"\(the extra train\): .*pip install "):
        Duplicates()
