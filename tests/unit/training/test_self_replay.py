"""Conversations of a model with itself: who speaks, in which order, what is a target, and what ends one."""

from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from chat_templates import save_chat_model
from transformers import GPT2Config

from convmodel import Conversation, ConversationModel
from convmodel.data.judgements.judgement import Judgement
from convmodel.errors import ConversationError, GenerationError
from convmodel.generation.output import ConversationModelOutput
from convmodel.training import self_replay as module
from convmodel.training.self_replay import FILE, self_replay


@pytest.fixture(autouse=True)
def few(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CONVERSATIONS", 5)
    monkeypatch.setattr(module, "TURNS", 3)


class Parrot:
    """Responds with what `says` returns for the context and the speaker, or ends a turn at the limit if it is None."""

    def __init__(self, says: Callable[[Conversation, str], str | None]) -> None:
        self.says = says
        self.hf_model = SimpleNamespace(config=GPT2Config(n_positions=64))
        self.options: list[dict[str, Any]] = []

    def generate_batch(self, contexts: Any, *, return_errors: bool, **options: Any) -> list[Any]:
        self.options.append(options)
        texts = [self.says(context, options["reply_as"]) for context in contexts]
        return [
            GenerationError("it failed")
            if text == "!"
            else ConversationModelOutput(["cut" if text is None else text], [], ["length" if text is None else "stop"])
            for text in texts
        ]


def thumb(turns: list[str], speakers: list[str] | None = None, *, pinned: int = 0, by: str = "assistant") -> Judgement:
    return Judgement(Conversation(turns, speakers, pinned=pinned), by, "Fine")


def test_both_speakers_are_sampled_in_turn_after_each_first_turn(tmp_path: Path) -> None:
    judged = [
        thumb(["Hello"]),
        thumb(["Hello", "Hi", "How are you?"]),  # begins alike
        thumb(["Be kind", "Good morning"], ["system", "user"], pinned=1),
        thumb(["I begin", "Well?"], ["assistant", "user"]),
        thumb(["Ann here", "Bob here", "Cem here"], ["Ann", "Bob", "Cem"], by="Dan"),
        thumb(["Only a system message"], ["system"], pinned=1),
        thumb(["42"], ["tool"]),
    ]
    model = Parrot(lambda context, name: f"{name} {len(context.turns)}")

    talks = list(self_replay(model, judged, tmp_path, seed=3))

    assert [(*talk.turns,) for talk in talks] == [
        ("Hello", "assistant 1", "user 2", "assistant 3"),
        ("Be kind", "Good morning", "assistant 2", "user 3", "assistant 4"),
        ("I begin", "user 1", "assistant 2", "user 3"),
        ("Ann here", "Dan 1", "Ann 2", "Dan 3"),
        ("Hello", "assistant 1", "user 2", "assistant 3"),
    ]
    assert [talk.turn_weights for talk in talks[:2]] == [(0, 1, 1, 1), (0, 0, 1, 1, 1)]  # what was sampled is learned
    assert talks[1].pinned == 1
    assert len({options["seed"] for options in model.options}) == 3


def test_the_distribution_is_the_models_own(tmp_path: Path) -> None:
    model = Parrot(lambda context, name: "Hi")
    self_replay(model, [thumb(["Hello"])], tmp_path, seed=0)

    plain = {"do_sample": True, "temperature": 1.0, "top_p": 1.0, "top_k": 0, "min_p": 0.0, "typical_p": 1.0}
    plain |= {"epsilon_cutoff": 0.0, "eta_cutoff": 0.0, "repetition_penalty": 1.0, "no_repeat_ngram_size": 0}
    assert (plain | {"max_new_tokens": 32}).items() <= model.options[0].items()


@pytest.mark.parametrize("fails", [None, "!", " "], ids=["no end", "an error", "blanks"])
def test_a_turn_that_fails_ends_its_conversation(tmp_path: Path, fails: str | None) -> None:
    model = Parrot(lambda context, name: fails if len(context.turns) == 2 else "Hi")
    assert {(*talk.turns,) for talk in self_replay(model, [thumb(["Hello"])], tmp_path, seed=0)} == {("Hello", "Hi")}


def test_long_conversations_are_not_continued(tmp_path: Path) -> None:
    model = Parrot(lambda context, name: "long " * 100)
    assert [len(talk.turns) for talk in self_replay(model, [thumb(["Hello"])], tmp_path, seed=0)] == [3] * 5


@pytest.mark.parametrize(
    ("says", "judged", "reason"),
    [
        ("!", thumb(["Hello"]), "it failed; give --replay FILE, or none"),
        (None, thumb(["Hello"]), "its responses are too long"),
        (" ", thumb(["Hello"]), "its responses are blank"),
        ("Hi", thumb(["42"], ["tool"]), "no judged conversation begins with a turn of a person"),
    ],
)
def test_a_model_without_conversations_is_refused(
    tmp_path: Path, says: str | None, judged: Judgement, reason: str
) -> None:
    with pytest.raises(ConversationError, match=reason):
        self_replay(Parrot(lambda context, name: says), [judged], tmp_path, seed=0)
    assert not (tmp_path / FILE).exists()


@pytest.mark.parametrize("layout", ["separator", "template"])
def test_a_resumed_run_reads_what_was_sampled(
    gpt2_folder: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, layout: str
) -> None:
    """With models of both layouts, whose turns count although random weights end none."""
    if layout == "template":
        save_chat_model(tmp_path / "model")
    folder = tmp_path / "model" if layout == "template" else gpt2_folder
    model = ConversationModel.from_pretrained(folder, device="cpu")
    monkeypatch.setattr(module, "NEW_TOKENS", 5)
    monkeypatch.setattr(module, "_turn", lambda output: (output.responses[0].strip() or "-", ""))

    first, again, other, different = (
        list(self_replay(model, [thumb(["Hello"])], tmp_path / folder, seed=seed))
        for folder, seed in (("a", 1), ("a", 2), ("b", 1), ("c", 2))
    )

    assert first == again == other
    assert different != first
    assert first[0].turns != first[1].turns  # each is a sample of its own
    assert {tuple(talk.turn_speakers) for talk in first} == {("user", "assistant", "user", "assistant")}
