"""Statistics of conversations: turns, tokens and speakers."""

import pytest

from convmodel import Conversation, ConversationTokenizer
from convmodel.training.doctor.statistics import OTHERS, TOP, Histogram, Statistics


def test_statistics_count_turns_tokens_and_speakers(gpt2_tokenizer: ConversationTokenizer) -> None:
    talks = [Conversation(["Hello", "How are you", "Hello"], ["Ann", "Bob", "Ann"]), Conversation(["Hello"], ["Cem"])]

    found = Statistics.collect(iter(talks), gpt2_tokenizer, loss_on="Bob")

    assert (found.conversations, found.turns, found.tokens) == (2, 4, 6)
    assert found.turns_per_conversation.counts == {3: 1, 1: 1}
    assert found.tokens_per_turn.counts == {1: 3, 3: 1}
    assert found.by_speaker() == [("Bob", 1, 3), ("Ann", 2, 2), ("Cem", 1, 1)]
    assert found.supervised() == {"Ann": 0, "Bob": 3, "Cem": 0}
    assert found.to_dict()["tokens_per_turn"] == {"mean": 1.5, "min": 1, "median": 1, "p90": 3, "p99": 3, "max": 3}
    assert found.to_dict()["speakers"][0] == {"name": "Bob", "turns": 1, "tokens": 3}


def test_many_speakers_are_counted_together(
    gpt2_tokenizer: ConversationTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("convmodel.training.doctor.statistics._NAMES", TOP + 5)
    talk = Conversation(["Hello"] * (TOP + 10), [f"speaker {number}" for number in range(TOP + 10)])

    found = Statistics.collect([talk], gpt2_tokenizer)

    assert len(found.turns_by_speaker) == TOP + 6
    assert len(found.by_speaker()) == TOP + 1
    assert found.by_speaker()[-1] == (OTHERS, 10, 10)
    assert found.supervised()[OTHERS] == 5


def test_a_histogram_of_nothing_is_zero() -> None:
    assert (Histogram().mean, Histogram().percentile(50)) == (0.0, 0)
