"""Which contexts a model in training responds to, and how the responses are shown."""

import logging
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from convmodel import Conversation, ConversationModel, FitConfig
from convmodel.errors import GenerationError
from convmodel.generation.chat_options import chat_options
from convmodel.training.samples import SampleContext, Samples, choose_contexts
from convmodel.training.samples_file import SHOWN, read_samples
from fine_tuning import TALKS

VALID = [Conversation(talk) for talk in TALKS]


@pytest.fixture(scope="module")
def model(unigram_folder: Path) -> ConversationModel:
    """A GPT-2, whose layout holds any speakers."""
    return ConversationModel.from_pretrained(unigram_folder, device="cpu")


def choose(model: ConversationModel, conversations: Any, count: int = 99, **options: Any) -> list[SampleContext]:
    chat = chat_options(model.hf_model, model.tokenizer, {"cut_long_turn": True})
    return choose_contexts(conversations, count, model.tokenizer, chat, **{"loss_on": "all", "seed": 42} | options)


def chosen_turn(model: ConversationModel, conversation: Conversation, loss_on: Any = "all") -> int | None:
    """The index of the turn that is expected of the model; None if the conversation has none."""
    contexts = choose(model, [conversation], loss_on=loss_on)
    for each in contexts:
        index = len(each.context.turns)
        assert each.context.turns == conversation.turns[:index]
        assert each.context.pinned == conversation.pinned
        assert (each.speaker, each.expected) == (conversation.turn_speakers[index], conversation.turns[index])
        return index
    return None


ANN_BOB = ["Ann", "Bob", "Bob", "Ann", "Ann"]


@pytest.mark.parametrize(
    ("conversation", "loss_on", "index"),
    [
        (Conversation(["a", "b"]), "all", 1),
        (Conversation(["a", "b", "c"]), "all", 1),  # the last turn of the assistant, not that of the user
        (Conversation(["a", "b", "c"]), "last", 2),
        (Conversation(["a", "b", "c"]), "user", 2),
        (Conversation(["a"]), "all", None),
        (Conversation(["a", "b"], ["assistant", "user"]), "all", None),
        (Conversation(["a", "b", "c"], ["assistant", "user", "assistant"]), "all", 2),
        (Conversation(["a", "b", "c", "d", "e"], ANN_BOB), "all", 1),  # not what Bob adds to his own turn
        (Conversation(["a", "b", "c", "d", "e"], ANN_BOB), "Ann", 3),
        (Conversation(["a", "b", "c", "d", "e"], ANN_BOB), ["Ann", "Cem"], 3),
        (Conversation(["a", "b", "c", "d"], ["Ann", "Bob", "Cem", "Bob"]), "Cem", 2),
        (Conversation(["a", "b"], ["system", "assistant"], pinned=1), "all", None),
        (Conversation(["a", "b", "c"], ["system", "user", "assistant"], pinned=1), "all", 2),
        (Conversation(["a", "b", "c", "d"], weights=[1, 1, 1, 0]), "all", 1),
    ],
)
def test_the_model_is_to_say_the_last_turn_that_it_learns(
    model: ConversationModel, conversation: Conversation, loss_on: Any, index: int | None
) -> None:
    assert chosen_turn(model, conversation, loss_on) == index


def test_contexts_depend_on_the_seed_alone(model: ConversationModel) -> None:
    some = choose(model, VALID, 3)

    assert len(some) == 3
    assert choose(model, iter(VALID), 3) == some
    assert any(choose(model, VALID, 3, seed=seed) != some for seed in range(5))
    assert [each for each in choose(model, VALID, 5) if each in some] == some  # a larger count adds to them
    answered = [talk for talk in VALID if len(talk.turns) > 1]
    indices = [len(talk.turns) // 2 * 2 - 1 for talk in answered]  # of the last turn of the assistant
    every = choose(model, VALID)
    assert [each.context.turns for each in every] == [
        talk.turns[:index] for talk, index in zip(answered, indices, strict=True)
    ]


def test_a_conversation_that_the_layout_has_no_place_for_is_not_used(bytelevel_folder: Path) -> None:
    model = ConversationModel.from_pretrained(bytelevel_folder, device="cpu")  # has no token types
    three = Conversation(["a", "b", "c"], ["Ann", "Bob", "Cem"])
    full = Conversation(["Long " * 4000, "a", "b"], ["system", "user", "assistant"], pinned=1)

    assert [each.expected for each in choose(model, [three, full, VALID[0]])] == [VALID[0].turns[1]]


def test_a_long_turn_is_cut_as_the_options_say(model: ConversationModel) -> None:
    assert len(choose(model, [Conversation(["Long " * 4000, "Yes"])])) == 1


def state(step: int, *, first: bool = True) -> Any:
    return SimpleNamespace(global_step=step, max_steps=40, is_world_process_zero=first)


def samples_of(model: ConversationModel, folder: Path, valid: Any = VALID, **options: Any) -> Samples:
    config = FitConfig(**{"samples": 3, "output_dir": str(folder)} | options)
    return Samples.of(model.hf_model, model.tokenizer, valid, config)


def test_responses_are_those_of_a_chat_with_the_seed(model: ConversationModel, tmp_path: Path) -> None:
    samples = samples_of(model, tmp_path, seed=7)

    samples.on_train_begin(None, state(0), None)
    samples.on_evaluate(None, state(0), None)  # of the validation before the first step
    samples.on_evaluate(None, state(9), None)

    records = read_samples(tmp_path)
    assert [record["step"] for record in records] == [0, 0, 0, 9, 9, 9]
    for number, record in enumerate(records[:3]):
        *before, last = Conversation.from_messages(record["context"]).turns
        session = model.session(before, seed=7 + number)
        assert session.respond(last) == record["response"]
    assert [record | {"step": 0} for record in records[3:]] == records[:3]  # the weights are the same


def test_every_speaker_responds_as_itself(model: ConversationModel, tmp_path: Path) -> None:
    names = [["Ann", "Bob"], ["Bob", "Cem"], ["Cem", "Bob"]]
    valid = [Conversation(TALKS[0], pair) for pair in names]

    samples_of(model, tmp_path, valid).on_train_begin(None, state(0), None)

    records = read_samples(tmp_path)
    assert [record["context"][0]["role"] for record in records] == ["Ann", "Cem", "Bob"]  # Bob's responses together
    for number, (record, speaker) in enumerate(zip(records, ["Bob", "Bob", "Cem"], strict=True)):
        options = chat_options(model.hf_model, model.tokenizer, {"seed": 42 + number, "reply_as": speaker})
        given = {name: value for name, value in options.hf.items() if name not in ("eos_token_id", "pad_token_id")}
        context = Conversation.from_messages(record["context"])
        assert model.generate(context, reply_as=speaker, seed=42 + number, **given).responses == [record["response"]]


def test_only_the_first_process_responds(model: ConversationModel, tmp_path: Path) -> None:
    samples = samples_of(model, tmp_path)

    samples.on_train_begin(None, state(0, first=False), None)
    samples.on_evaluate(None, state(9, first=False), None)

    assert not [*tmp_path.iterdir()]


def test_fewer_contexts_than_requested_are_reported(
    model: ConversationModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, SHOWN)
    for valid, found in ((VALID[:1], 1), (VALID[2:3], 0)):
        caplog.clear()
        samples = samples_of(model, tmp_path, valid)
        samples.on_train_begin(None, state(0), None)
        [message] = caplog.messages
        assert message.startswith(f"samples: {found} of 3 contexts: no other validation conversation has")
    assert read_samples(tmp_path) == []


def test_a_response_that_fails_is_reported_and_the_others_are_written(
    model: ConversationModel, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, SHOWN)
    samples = samples_of(model, tmp_path)
    monkeypatch.setattr(samples, "_responses", lambda: ["One", GenerationError("out of memory"), "Three"])

    samples.on_train_begin(None, state(0), None)

    assert [record["response"] for record in read_samples(tmp_path)] == ["One", "Three"]
    warning, shown = caplog.messages
    assert warning == "step 0: a sample is left out: out of memory"
    assert shown.count("expected: ") == 2


def test_responses_are_shown_in_short_lines(
    model: ConversationModel, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level(logging.INFO, SHOWN)
    samples = samples_of(model, tmp_path, [Conversation(["Hello\nyou", "Fine"]), Conversation(["Well? " * 30, "Yes"])])
    caplog.clear()
    monkeypatch.setattr(samples, "_responses", lambda: ["I am\x1b[31m well", "友" * 100])

    samples.on_train_begin(None, state(0), None)

    assert caplog.messages[0].splitlines() == [
        "step 0 of 40: responses to validation data",
        "  1. user: Hello you",
        "     assistant: I am[31m well",
        "     expected: Fine",
        "  2. user: " + ("Well? " * 30)[:63] + "…",
        "     assistant: " + "友" * 31 + "…",
        "     expected: Yes",
    ]
