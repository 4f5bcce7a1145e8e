"""From messages to conversations: gaps, joined turns, and who is who."""

import random
from collections import Counter
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convmodel import Conversation
from convmodel.data.importing.exports.messages import Chat, Message
from convmodel.data.importing.segmenting import (
    DEFAULT_GAP,
    Segmenting,
    choose_gap,
    parse_gap,
    rename,
    segment,
    show_gap,
    speakers_of,
)
from convmodel.errors import ConfigError, ConversationError

BEGIN = datetime(2024, 1, 31, 21, 41)


def chat(*said: tuple[str, str, float], parted: bool = True) -> Chat:
    """Makes a chat of (speaker, text, minutes since the beginning)."""
    messages = [
        Message(speaker, text, BEGIN + timedelta(minutes=minutes), f"chat.txt:{number}")
        for number, (speaker, text, minutes) in enumerate(said, 1)
    ]
    return Chat("chat", messages, parted=parted)


TALK = chat(("Ann", "Hi", 0), ("Ann", "There?", 1), ("Bob", "Yes", 2), ("Bob", "Morning!", 600), ("Ann", "Hello", 601))


def test_a_pause_longer_than_the_gap_begins_a_conversation() -> None:
    first, second = segment([TALK], Segmenting(gap=timedelta(hours=1)), Counter())

    assert first == Conversation(["Hi\nThere?", "Yes"], ["Ann", "Bob"])
    assert second == Conversation(["Morning!", "Hello"], ["Bob", "Ann"])
    assert (first.id, second.id) == ("chat.txt:1", "chat.txt:4")
    assert (first.started_at, second.started_at) == (BEGIN, BEGIN + timedelta(minutes=600))


def test_a_pause_as_long_as_the_gap_does_not() -> None:
    assert len(list(segment([TALK], Segmenting(gap=timedelta(minutes=598)), Counter()))) == 1
    assert len(list(segment([TALK], Segmenting(gap=timedelta(minutes=597)), Counter()))) == 2


def test_a_step_back_in_time_longer_than_a_day_begins_a_conversation() -> None:
    two_exports = chat(
        ("Ann", "Hi", 2000), ("Bob", "Yes", 2001), ("Ann", "Late", 1000), ("Cem", "Hello", -1000), ("Dan", "Hm", -999)
    )

    first, second = segment([two_exports], Segmenting(gap=timedelta(hours=1)), Counter())

    assert (list(first.turns), list(second.turns)) == (["Hi", "Yes", "Late"], ["Hello", "Hm"])


def test_a_chat_that_is_one_conversation_is_not_parted() -> None:
    whole = Chat("chat", TALK.messages, parted=False)

    [conversation] = segment([whole], Segmenting(gap=timedelta(minutes=1)), Counter())

    assert len(conversation.turns) == 4 - 1  # Bob's turns around the pause are one


def test_messages_without_times_are_one_conversation() -> None:
    plain = Chat("chat", [Message("Ann", "Hi", None, "x:1"), Message("Bob", "Yes", None, "x:2")])

    assert list(segment([plain], Segmenting(), Counter())) == [Conversation(["Hi", "Yes"], ["Ann", "Bob"])]
    assert list(segment([Chat("empty")], Segmenting(), Counter())) == []


def test_messages_may_stay_turns_of_their_own() -> None:
    first, _ = segment([TALK], Segmenting(keep_messages=True), Counter())

    assert first == Conversation(["Hi", "There?", "Yes"], ["Ann", "Ann", "Bob"])


def test_me_becomes_the_assistant_and_one_other_the_user() -> None:
    first, second = segment([TALK], Segmenting(me="Bob"), Counter())

    assert (first.turn_speakers, second.turn_speakers) == (("user", "assistant"), ("assistant", "user"))


GROUP = chat(("Ann", "Hi", 0), ("Cem", "Hi both", 1), ("Bob", "Yes", 2), ("Ann", "Good", 3))


def test_a_group_keeps_its_names_beside_the_assistant() -> None:
    [conversation] = segment([GROUP], Segmenting(me="Bob"), Counter())

    assert conversation.turn_speakers == ("Ann", "Cem", "assistant", "Ann")


def test_the_others_of_a_group_may_be_merged() -> None:
    [conversation] = segment([GROUP], Segmenting(me="Bob", merge_others=True), Counter())

    assert conversation == Conversation(["Hi\nHi both", "Yes", "Good"], ["user", "assistant", "user"])


def test_somebody_who_says_nothing_is_named_with_those_who_do() -> None:
    with pytest.raises(ConversationError, match=r"nobody is called Zoe; there are Ann \(3\), Bob \(2\)"):
        list(segment([TALK], Segmenting(me="Zoe"), Counter()))


def test_conversations_that_were_ones_already_are_renamed_too() -> None:
    given = Conversation(["Be kind.", "Hi", "There?", "Yes"], ["system", "Ann", "Ann", "Bob"], pinned=1, id="7")

    renamed = rename(given, Segmenting(me="Bob"))

    assert renamed == Conversation(["Be kind.", "Hi\nThere?", "Yes"], ["system", "user", "assistant"], pinned=1)
    assert renamed.id == "7"
    assert rename(given, Segmenting(keep_messages=True)) == given


def test_everybody_is_counted() -> None:
    assert speakers_of([TALK, GROUP]) == {"Ann": 5, "Bob": 3, "Cem": 1}


@pytest.mark.parametrize(
    ("text", "gap"),
    [("30s", timedelta(seconds=30)), ("90m", timedelta(minutes=90)), ("1h", timedelta(hours=1)), ("2D", timedelta(2))],
)
def test_gaps_are_read(text: str, gap: timedelta) -> None:
    assert parse_gap(text) == gap


@pytest.mark.parametrize("text", ["", "h", "1", "1w", "-1h", "0m", "1.5h", "1 h", "٣h", "99999999d"])
def test_what_is_no_gap_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=r"gap is .*: write a number and s, m, h or d"):
        parse_gap(text)


@given(st.integers(1, 10**6))
def test_a_gap_that_is_shown_is_read_back(seconds: int) -> None:
    gap = timedelta(seconds=seconds)

    shown = show_gap(gap)

    assert len(shown) > 7 or parse_gap(shown) == gap


def pauses(*minutes: float) -> Chat:
    times = [0.0]
    for pause in minutes:
        times.append(times[-1] + pause)
    return chat(*(("Ann", "x", time) for time in times))


def test_the_gap_lies_between_the_two_kinds_of_pauses() -> None:
    chance = random.Random(0)
    quick = [chance.uniform(1, 8) for _ in range(300)]
    slow = [chance.uniform(300, 2000) for _ in range(60)]
    mixed = quick + slow
    chance.shuffle(mixed)

    gap, why = choose_gap([pauses(*mixed)])

    assert timedelta(minutes=8) < gap < timedelta(minutes=300)
    assert why == "since most pauses here are much shorter or much longer"


def test_a_slow_chat_has_a_longer_gap_than_a_quick_one() -> None:
    def gap_of(scale: float) -> timedelta:
        chance = random.Random(1)
        return choose_gap([pauses(*(chance.choice([1.0, 40.0]) * chance.uniform(1, 2) * scale for _ in range(400)))])[0]

    assert gap_of(1) < gap_of(10)


def test_too_few_pauses_tell_nothing() -> None:
    gap, why = choose_gap([TALK])

    assert gap == DEFAULT_GAP
    assert "4 pauses of a minute or more are too few" in why


def test_pauses_in_chats_that_are_one_conversation_do_not_count() -> None:
    whole = pauses(*([1.0, 500.0] * 100))
    whole.parted = False

    assert choose_gap([whole])[0] == DEFAULT_GAP


def test_a_message_without_a_time_does_not_hide_a_pause() -> None:
    messages = [TALK.messages[0], Message("Bob", "Well", None, "chat.txt:9"), TALK.messages[3]]

    assert len(list(segment([Chat("chat", messages)], Segmenting(), Counter()))) == 2


def test_parts_without_me_are_counted() -> None:
    dropped: Counter[str] = Counter()
    talk = chat(("Ann", "Hi", 0), ("Bob", "Yes", 1), ("Ann", "Later", 500), ("Ann", "Anyone?", 501))

    [conversation] = segment([talk], Segmenting(me="Bob"), dropped)

    assert conversation.turn_speakers == ("user", "assistant")
    assert dropped == {"Bob has no turn": 1}
