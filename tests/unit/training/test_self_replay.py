"""Conversations of a model with itself: who speaks, in which order, the same for a seed, kept for a resumed run."""

from pathlib import Path

import pytest

from convmodel import Conversation, ConversationModel
from convmodel.data.judgements.judgement import Judgement
from convmodel.training import self_replay as module
from convmodel.training.self_replay import self_replay


@pytest.fixture
def model(served_models: dict[str, ConversationModel], monkeypatch: pytest.MonkeyPatch) -> ConversationModel:
    monkeypatch.setattr(module, "CONVERSATIONS", 5)
    monkeypatch.setattr(module, "TURNS", 3)
    monkeypatch.setattr(module, "NEW_TOKENS", 6)
    return served_models["tiny"]


def thumb(turns: list[str], speakers: list[str] | None = None, pinned: int = 0) -> Judgement:
    return Judgement(Conversation(turns, speakers, pinned=pinned), "assistant", "Fine")


def test_both_speakers_are_sampled_after_each_first_turn_in_turn(model: ConversationModel, tmp_path: Path) -> None:
    judged = [
        thumb(["Hello"]),
        thumb(["Hello", "Hi", "How are you?"]),  # begins alike
        thumb(["Be kind", "Good morning"], ["system", "user"], pinned=1),
        thumb(["I begin", "Well?"], ["assistant", "user"]),
    ]

    talks = list(self_replay(model, judged, tmp_path, seed=3))

    begun = [tuple(talk.turns[: talk.pinned + 1]) for talk in talks]
    assert begun == [("Hello",), ("Be kind", "Good morning"), ("I begin",), ("Hello",), ("Be kind", "Good morning")]
    for talk in talks:
        spoken = list(talk.turn_speakers[talk.pinned :])
        order = ["assistant", "user"] if talk.turns[0] == "I begin" else ["user", "assistant"]
        assert spoken == (order * 2)[: len(spoken)]
        assert len(spoken) > 1
    assert talks[0].turns != talks[3].turns  # each is a sample of its own


def test_a_resumed_run_reads_what_was_sampled(model: ConversationModel, tmp_path: Path) -> None:
    first, again, other = (
        list(self_replay(model, [thumb(["Hello"])], tmp_path / name, seed=seed))
        for name, seed in (("a", 1), ("a", 2), ("b", 1))
    )

    assert first == again == other
    assert list(self_replay(model, [thumb(["Hello"])], tmp_path / "c", seed=2)) != first
