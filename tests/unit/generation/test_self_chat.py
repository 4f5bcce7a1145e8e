"""Models that talk to each other: whose turn it is, when it ends, and what a loop is."""

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scripted import enliven, scripted

from convmodel import Conversation, ConversationModel
from convmodel.errors import ConfigError
from convmodel.generation.self_chat import LONGEST_LOOP, Loop, SelfChat, find_loop, opening_of


@pytest.fixture(scope="module")
def gpt2(gpt2_folder: Path) -> ConversationModel:
    return ConversationModel.from_pretrained(gpt2_folder, device="cpu")


@pytest.fixture(scope="module")
def llama(bytelevel_folder: Path) -> ConversationModel:
    return ConversationModel.from_pretrained(bytelevel_folder, device="cpu")


# Loops.


@pytest.mark.parametrize(
    ("turns", "loop"),
    [
        ([], None),
        (["a"], None),
        (["a", "a"], None),
        (["a", "a", "a"], Loop(1, 1)),
        (["x", "a", "A ", " a"], Loop(2, 1)),
        (["a", "b", "a"], None),
        (["a", "b", "a", "b"], Loop(1, 2)),
        (["x", "a", "b", "a", "b", "a"], Loop(2, 2)),
        (["a", "b", "a", "b", "c"], None),
        (["a", "b", "c", "a", "b"], None),
        (["y", "a", "b", "c", "a", "b", "c"], Loop(2, 3)),
        ([*"abcdefabcdef"], Loop(1, 6)),
        ([*"abcdefgabcdefg"], None),
        (["a  b", "c", "A B", "c"], Loop(1, 2)),
    ],
)
def test_loops(turns: Sequence[str], loop: Loop | None) -> None:
    assert find_loop(turns) == loop


@given(st.lists(st.sampled_from("ab"), max_size=5), st.lists(st.sampled_from("abc"), min_size=1, max_size=LONGEST_LOOP))
def test_whatever_is_said_twice_in_a_row_is_a_loop(before: list[str], around: list[str]) -> None:
    said = before + around * (3 if len(around) == 1 else 2)
    loop = find_loop(said)

    assert loop is not None
    assert loop.period <= len(around)
    again = said[loop.first - 1 :]
    assert again[loop.period :] == again[: -loop.period]


# Conversations.


def test_speakers_take_turns_and_each_model_says_its_own(gpt2: ConversationModel, llama: ConversationModel) -> None:
    with scripted(gpt2, "one", "three"), scripted(llama, "two", "four"):
        talk = SelfChat({"Ann": llama, "Bob": gpt2}, opening_of("zero", ["Ann"]), turns=4)
        said = list(talk)

    assert said == [("Bob", "one"), ("Ann", "two"), ("Bob", "three"), ("Ann", "four")]
    result = talk
    assert result.conversation == Conversation(
        ["zero", "one", "two", "three", "four"], ["Ann", "Bob", "Ann", "Bob", "Ann"]
    )
    assert (result.opening, result.ended_by, result.loop, result.cut_off, result.repeated) == (
        1,
        "turns",
        None,
        0,
        0,
    )


def test_none_stands_for_an_option_that_is_not_given(gpt2: ConversationModel, monkeypatch: pytest.MonkeyPatch) -> None:
    requests = []

    def generate(context: Conversation, **options: Any) -> Any:
        requests.append(options)
        return SimpleNamespace(responses=["Fine"], finish_reasons=["stop"])

    monkeypatch.setattr(gpt2, "generate", generate)
    for options in ({}, {"min_new_tokens": None, "cut_long_turn": None, "top_p": None}):
        assert [*SelfChat({"a": gpt2, "b": gpt2}, opening_of("Hi", ["a"]), turns=1, **options)] == [("b", "Fine")]
    assert requests[0] == requests[1]


def test_an_option_that_does_not_exist_is_an_error_as_none_too(gpt2: ConversationModel) -> None:
    with pytest.raises(ConfigError, match="no generation option is called temprature"):
        SelfChat({"a": gpt2, "b": gpt2}, opening_of("Hi", ["a"]), temprature=None)  # type: ignore[call-arg]


def test_three_speakers_go_round(gpt2: ConversationModel) -> None:
    with scripted(gpt2, "one", "two", "three", "four"):
        talk = SelfChat(dict.fromkeys(["Ann", "Bob", "Cem"], gpt2), opening_of("Hi", ["Bob"]), turns=4)

        assert [name for name, _ in talk] == ["Cem", "Ann", "Bob", "Cem"]


def test_a_loop_ends_it_or_is_told(gpt2: ConversationModel) -> None:
    speakers = {"user": gpt2, "assistant": gpt2}
    replies = ["Fine", "You?", "Fine", "You?", "Fine", "Bye"]
    with scripted(gpt2, *replies):
        stopped = SelfChat(speakers, opening_of("Hi"), turns=6)
        assert [text for _, text in stopped] == ["Fine", "You?", "Fine", "You?"]
    with scripted(gpt2, *replies):
        talk = SelfChat(speakers, opening_of("Hi"), turns=6, stop_at_loop=False)
        assert [text for _, text in talk] == replies

    assert (stopped.ended_by, stopped.loop, stopped.repeated) == ("loop", Loop(2, 2), 2)
    assert (talk.ended_by, talk.loop, talk.repeated) == ("turns", Loop(2, 2), 3)


def test_a_response_of_blanks_ends_it(gpt2: ConversationModel) -> None:
    with scripted(gpt2, "Fine", "  "):
        talk = SelfChat({"user": gpt2, "assistant": gpt2}, opening_of("Hi"), turns=6)
        assert len(list(talk)) == 1

    assert talk.ended_by == "empty"


def test_a_seed_makes_it_repeatable_and_every_turn_another(gpt2: ConversationModel) -> None:
    def say(seed: int) -> list[str]:
        speakers = {"user": gpt2, "assistant": gpt2}
        return [
            text
            for _, text in SelfChat(speakers, opening_of("Hi"), turns=6, seed=seed, do_sample=True, max_new_tokens=5)
        ]

    assert say(1) == say(1) != say(2)
    assert len(set(say(1))) > 1


@pytest.mark.slow
def test_a_long_talk_goes_on_when_the_context_is_full(gpt2_folder: Path) -> None:
    model = ConversationModel.from_pretrained(gpt2_folder, device="cpu")
    enliven(model.hf_model, 10.0)
    talk = SelfChat(
        {"user": model, "assistant": model}, opening_of("Hi"), turns=60, max_new_tokens=12, stop_at_loop=False
    )

    assert len(list(talk)) == 60
    assert (
        sum(len(model.tokenizer.encode(turn)) for turn in talk.conversation.turns) > model.hf_model.config.n_positions
    )
    assert talk.cut_off > 0


@pytest.mark.parametrize("speakers", [[], ["Ann"], ["Ann", "Bob"]])
def test_strangers_and_single_speakers_are_refused(gpt2: ConversationModel, speakers: list[str]) -> None:
    with pytest.raises(ConfigError, match="cannot continue"):
        SelfChat(dict.fromkeys(speakers, gpt2), opening_of("Hi", ["Cem" if len(speakers) > 1 else "Ann"]))
