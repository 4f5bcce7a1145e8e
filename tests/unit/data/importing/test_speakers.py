"""The table of speakers, names that are no people, and sentences of several speakers."""

import pytest

from convmodel.data.importing.speakers import FIRST_WORDS, SpeakerTable


def test_each_message_is_a_turn_if_messages_are_kept() -> None:
    speakers = SpeakerTable(keep_messages=True)
    speakers.add([("Ann", "Hi"), ("Ann", "Are you there?"), ("Bob", "Yes")])
    assert speakers.turns == {"Ann": 2, "Bob": 1}


def table(*messages: tuple[str, str]) -> SpeakerTable:
    table = SpeakerTable()
    table.add(messages)
    return table


def test_turns_are_runs_of_messages() -> None:
    speakers = table(("Ann", "Hi\n there"), ("Ann", "Bob?"), ("Bob", "x" * 100), ("Ann", "Oh"))
    speakers.add([("Ann", "Again")])

    assert speakers.turns == {"Ann": 3, "Bob": 1}
    assert speakers.first_words == {"Ann": "Hi there", "Bob": "x" * FIRST_WORDS + "..."}
    assert speakers.warnings() == []


@pytest.mark.parametrize(
    ("name", "is_doubtful"),
    [("Bob left the group", True), ("Bob, it did", True), ("Bobby", False), ("Bob (2)", False), ("Cem", False)],
)
def test_a_name_that_continues_another_and_speaks_once_is_doubtful(name: str, is_doubtful: bool) -> None:
    speakers = table(("Bob", "Hi"), ("Ann", "Oh"), (name, "yes"), ("Bob", "No"))

    assert speakers.doubtful() == [name] * is_doubtful
    assert any("perhaps not people" in warning for warning in speakers.warnings()) == is_doubtful


def test_who_speaks_twice_is_not_doubtful() -> None:
    assert table(("Bob", "Hi"), ("Bob Lee", "Oh"), ("Bob", "Yes"), ("Bob Lee", "No")).doubtful() == []


def test_beginnings_are_found_among_many_names() -> None:
    """Comparing all pairs of so many names would not end within a test's time."""
    speakers = table(*((f"user{number}", "hi") for number in range(80_000)), ("user7 left", "x"), ("user", "x"))

    assert speakers.doubtful() == ["user7 left"]


def test_equal_sentences_of_several_speakers_are_shown_with_their_count() -> None:
    speakers = table(
        *(("Ann", "Ann hat ein \N{HEAVY BLACK HEART} geschickt"), ("Bob", "Bob hat ein \N{FIRE} geschickt")) * 2,
        *(("Ann", "oh yes"), ("Bob", "oh yes")) * 9,  # too short to be noteworthy
        *(("Ann", "only one person says this"), ("Bob", "ok")) * 9,
    )

    assert speakers.recurring() == [("hat ein * geschickt", 4)]
    [warning] = speakers.warnings()
    assert "'hat ein * geschickt' (4)" in warning


def test_sentences_that_occur_once_are_forgotten() -> None:
    speakers = SpeakerTable()
    for number in range(60_000):
        speakers.add([(f"Speaker {number % 7}", f"this is sentence {number}"), ("Ann", "a b c d")])

    assert len(speakers._sentences) <= 20_000
    assert speakers.recurring() == []
