"""Splitting: sizes, time, chance, repeats kept together, and the check that would notice if they were not."""

import os
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from convmodel.conversation import Conversation
from convmodel.data.importing.splitting import Leak, Split, check_leakage, require_no_leakage, split, too_small
from convmodel.errors import ConfigError, ConversationError

START = datetime(2024, 1, 1)


def talk(number: int, *, day: float | None = None, change: str = "") -> Conversation:
    """A conversation unlike those of other numbers, and nearly the same as those that differ in the change."""
    words = " ".join(f"word{number}x{position}" for position in range(30))
    started_at = None if day is None else START + timedelta(days=day)
    return Conversation([words, f"Yes {change}".strip()], id=f"{number}{change}", started_at=started_at)


def ids(conversations: Sequence[Conversation]) -> list[str | None]:
    return [conversation.id for conversation in conversations]


def sizes(parts: Split) -> tuple[int, int, int]:
    return len(parts.train), len(parts.valid), len(parts.test)


@pytest.mark.parametrize("day", [None, 1.0])
@pytest.mark.parametrize(
    ("count", "shares", "expected"),
    [
        (100, (0.9, 0.05, 0.05), (90, 5, 5)),
        (10, (0.9, 0.05, 0.05), (8, 1, 1)),
        (3, (0.9, 0.05, 0.05), (1, 1, 1)),
        (7, (0.8, 0.2, 0.0), (6, 1, 0)),
        (7, (0.5, 0, 0.5), (4, 0, 3)),
        (7, (1, 0, 0), (7, 0, 0)),
        (9, {"train": 0.7, "test": 0.3}, (6, 0, 3)),
        (30, {"test": 0.1, "valid": 0.1, "train": 0.8}, (24, 3, 3)),
        (4, (0.1, 0.1, 0.8), (1, 1, 2)),
    ],
)
def test_sizes_are_nearest_to_the_shares(count: int, shares: Any, expected: tuple[int, ...], day: float | None) -> None:
    talks = [talk(number, day=day and number) for number in range(count)]

    assert sizes(split(talks, shares)) == expected


def test_by_time_the_newest_are_for_the_test() -> None:
    talks = [talk(number, day=day) for number, day in enumerate([5, 1, 9, 3, 7, 0, 8, 2, 6, 4])]

    parts = split(talks, (0.6, 0.2, 0.2))

    assert ids(parts.train) == ["0", "1", "3", "5", "7", "9"]
    assert ids(parts.valid) == ["4", "8"]
    assert ids(parts.test) == ["2", "6"]
    assert parts.method == "by time: valid begins 2024-01-07, test begins 2024-01-09"


def test_times_with_and_without_a_zone_are_in_one_order() -> None:
    zone = timezone(timedelta(hours=9))
    moments = [datetime(2024, 1, 1, 8, tzinfo=zone), datetime(2024, 1, 1, 0), datetime(2024, 1, 1, 1, tzinfo=UTC)]
    talks = [Conversation([f"Hello {n}"], id=str(n), started_at=moment) for n, moment in enumerate(moments)]

    parts = split(talks, (0.4, 0.3, 0.3))

    assert (ids(parts.train), ids(parts.valid), ids(parts.test)) == (["0"], ["1"], ["2"])


def test_a_late_repeat_goes_where_the_oldest_of_its_group_is() -> None:
    talks = [talk(number, day=number) for number in range(10)] + [talk(2, day=20, change="again")]

    parts = split(talks, (0.8, 0.1, 0.1))

    assert "2again" in ids(parts.train)
    assert ids(parts.test) == ["9"]
    assert parts.method == "by time: valid begins 2024-01-09, test begins 2024-01-10"


def test_without_all_times_it_is_by_chance() -> None:
    talks = [talk(number, day=number or None) for number in range(10)]

    assert split(talks).method == "at random with seed 42, since 1 of 10 have no start time"
    assert split(talks[1:], by="random", seed=3).method == "at random with seed 3"
    with pytest.raises(ConversationError, match=r"^1 of 10 conversations have no start time: split by random"):
        split(talks, by="time")


def test_the_seed_decides_and_nothing_else() -> None:
    talks = [talk(number) for number in range(50)]

    assert split(talks, seed=1) == split(talks, seed=1)
    assert len({tuple(ids(split(talks, seed=seed).test)) for seed in range(10)}) > 5


def test_the_parts_do_not_depend_on_the_hash_seed() -> None:
    texts = [[f"a{n // 2} b{n // 2} c{n // 2} d{n // 2} e{n // 2}", "k" * (n % 2 + 1)] for n in range(40)]
    code = (
        "from convmodel.conversation import Conversation; from convmodel.data.importing.splitting import split;"
        f"parts = split([Conversation(turns) for turns in {texts}], near=0.5);"
        "print([talk.turns for talk in parts.test + parts.valid])"
    )

    here = split([Conversation(turns) for turns in texts], near=0.5)
    there = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONHASHSEED": "7"},
        capture_output=True,
        check=True,
        text=True,
    )

    assert there.stdout.strip() == str([talk.turns for talk in here.test + here.valid])


@pytest.mark.parametrize("day", [None, 1.0])
@pytest.mark.parametrize("copies", [[5, 5, 2], [10, 1, 1], [4, 4, 4], [1, 1, 10], [2, 2, 2, 2, 2, 2]])
def test_repeats_stay_together_and_no_part_is_empty(copies: list[int], day: float | None) -> None:
    talks = [
        talk(number, day=day and number * 10 + copy, change=f"copy{copy}")
        for number, count in enumerate(copies)
        for copy in range(count)
    ]

    parts = split(talks)

    assert min(sizes(parts)) > 0
    numbers = [{(id or "").partition("copy")[0] for id in ids(part)} for part in (parts.train, parts.valid, parts.test)]
    assert sum(map(len, numbers)) == len(copies)
    assert not check_leakage(parts.train, {"valid": parts.valid, "test": parts.test})


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_conversations_are_refused(count: int) -> None:
    with pytest.raises(ConversationError, match=rf"^{count} conversations: too few for 3 parts; add conversations, or"):
        split([talk(number) for number in range(count)])


def test_too_few_groups_are_refused() -> None:
    talks = [talk(number, change=change) for number in range(2) for change in "abc"]

    with pytest.raises(
        ConversationError, match=r"^6 conversations, 2 if those that repeat each other are one: too few"
    ):
        split(talks)
    assert sizes(split(talks, (0.5, 0, 0.5))) == (3, 0, 3)


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ((0.9, 0.05, 0.06), "shares sum to 1.01: they must sum to 1"),
        ((0.5, 0.5), "shares are (0.5, 0.5): they must be three numbers"),
        (0.9, "shares are 0.9: they must be three numbers"),
        ((1.2, -0.1, -0.1), "the share of train is 1.2"),
        ((0.5, "0.3", 0.2), "the share of valid is '0.3'"),
        ((0.5, 0.5, float("nan")), "the share of test is nan"),
        ((0, 0.5, 0.5), "the share of train is 0"),
        ({"train": 0.5, "dev": 0.5}, "shares name dev: the parts are train, valid and test"),
    ],
)
def test_shares_are_checked(shares: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        split([talk(number) for number in range(10)], shares)

    assert str(caught.value).startswith(message)


def test_by_is_checked() -> None:
    with pytest.raises(ConfigError, match="by is 'date': it must be auto, time or random"):
        split([talk(1)], by="date")  # type: ignore[arg-type]


def test_leaks_tell_the_most_similar_one_of_train() -> None:
    train = [talk(1, change="a"), talk(1, change="b"), talk(2), Conversation(["Hi", "Hello"])]
    others = {
        "valid": [talk(3), Conversation(["hi", "HELLO"])],
        "test": [talk(1, change="b"), talk(4), talk(2, change="c d")],
    }

    leaks = check_leakage(train, others)

    assert leaks == [
        Leak("valid", "conversation 2", "conversation 4", 1.0),
        Leak("test", "1b", "1b", 1.0),
        Leak("test", "2c d", "2", 29 / 31),
    ]
    assert check_leakage(train, others, near=None) == leaks[:2]
    assert check_leakage(train, {}) == []


def test_leaks_are_refused_with_their_number_and_the_first_pairs() -> None:
    talks = [talk(number) for number in range(7)]

    require_no_leakage(talks[:3], {"test": talks[3:]})
    with pytest.raises(ConversationError) as one:
        require_no_leakage(talks, {"test": talks[:1]})
    with pytest.raises(ConversationError) as many:
        require_no_leakage(talks, {"test": talks})

    assert str(one.value) == (
        "1 conversation is in train and in another part, so results would be too good: 0 of test repeats 0 of train "
        "(similarity 1.00). Remove them from train, or split again with repeats kept together"
    )
    assert str(many.value).startswith("7 conversations are in train and in another part")
    assert str(many.value).count("repeats") == 6
    assert "4 of train (similarity 1.00); ..." in str(many.value)


plans = st.lists(st.tuples(st.integers(0, 12), st.sampled_from("ab"), st.integers(0, 30)), min_size=1, max_size=25)


@settings(max_examples=40)
@given(plans, st.booleans(), st.integers(0, 5), st.sampled_from([(0.9, 0.05, 0.05), (0.6, 0.0, 0.4), (1 / 3,) * 3]))
def test_every_conversation_is_in_exactly_one_part(
    plan: list[tuple[int, str, int]], dated: bool, seed: int, shares: tuple[float, float, float]
) -> None:
    talks = [talk(number, day=day if dated else None, change=change) for number, change, day in plan]
    if len({number for number, _, _ in plan}) < sum(share > 0 for share in shares):
        with pytest.raises(ConversationError):
            split(talks, shares)
        return

    parts = split(talks, shares, seed=seed)

    places = {id(conversation): place for place, conversation in enumerate(talks)}
    found = [[places[id(conversation)] for conversation in part] for part in (parts.train, parts.valid, parts.test)]
    assert sorted(place for part in found for place in part) == list(range(len(talks)))
    assert all(part == sorted(part) for part in found)
    assert all(bool(part) == (share > 0) for part, share in zip(found, shares, strict=True))
    assert parts == split(talks, shares, seed=seed)
    require_no_leakage(parts.train, {"valid": parts.valid, "test": parts.test})
    require_no_leakage(parts.valid, {"test": parts.test})
    if dated:
        begins = min(plan[place][2] for place in found[2])
        oldest = {number: min(day for other, _, day in plan if other == number) for number, _, _ in plan}
        assert all(oldest[plan[place][0]] <= begins for place in found[0] + found[1])


@settings(max_examples=30)
@given(plans, st.data())
def test_a_planted_repeat_is_found(plan: list[tuple[int, str, int]], data: st.DataObject) -> None:
    train = [talk(number, change=change) for number, change, _ in plan]
    number, _, _ = data.draw(st.sampled_from(plan))
    planted = talk(number, change="planted")

    [leak] = check_leakage(train, {"valid": [talk(100)], "test": [talk(101), planted]})

    assert (leak.part, leak.id) == ("test", planted.id)
    assert leak.train_id.startswith(str(number))
    assert leak.similarity >= 0.8


def test_parts_that_are_too_small_for_a_comparison_are_named() -> None:
    talks = [talk(number) for number in range(40)]

    assert too_small(split(talks, (1, 0, 0))) is None
    assert too_small(split(talks, (0.5, 0, 0.5))) is None
    message = too_small(split(talks, (0.9, 0.05, 0.05))) or ""
    assert message.startswith(
        "valid has 2 conversations and test 2: you can train, but comparing models needs at least 20 in each; "
    )
    assert "comparing models needs at least 20; import" in (too_small(split(talks, (0.95, 0.05, 0))) or "")


@pytest.mark.parametrize("day", [None, 1.0])
@pytest.mark.parametrize(
    ("count", "shares", "enough"),
    [
        (96, (0.6, 0.2, 0.2), (0.58, 0.21, 0.21)),  # 19 and 19 are too few
        (96, (0.9, 0.05, 0.05), (0.58, 0.21, 0.21)),
        (100, (0.55, 0.35, 0.1), None),  # valid keeps its share
        (100, (0.6, 0.3, 0.1), (0.5, 0.3, 0.2)),
        (40, (0.9, 0.1, 0), (0.5, 0.5, 0)),
        (39, (0.9, 0.1, 0), None),  # train would have less than half
        (60, (0.9, 0.05, 0.05), None),
        (1000, (0.98, 0.01, 0.01), (0.96, 0.02, 0.02)),
        (400, (0.9, 0.05, 0.05), None),  # they are large enough
        (30, (1, 0, 0), None),
    ],
)
def test_larger_shares_are_known_if_some_are_enough(count: int, shares: Any, enough: Any, day: float | None) -> None:
    talks = [talk(number, day=day and number) for number in range(count)]

    parts = split(talks, shares, near=None)

    assert parts.enough == enough
    if enough:
        assert too_small(split(talks, enough, near=None)) is None


def test_repeats_are_reckoned_with_in_larger_shares() -> None:
    """Twenty repeats of one conversation are all in train, or in another part."""
    talks = [talk(number, day=number) for number in range(80)]
    talks += [talk(79, day=80 + number, change=str(number)) for number in range(20)]

    enough = split(talks, (0.9, 0.05, 0.05)).enough

    assert enough
    assert too_small(split(talks, enough)) is None
