"""A session is its turns: responding, taking back, interrupting and overflowing keep them in order."""

import itertools
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from chat_templates import FORMS, SPACED, make_tokenizer
from scripted import enliven, scripted, watched

from convmodel import ChatSession, Conversation, ConversationModel
from convmodel.errors import ConfigError, ContextTooLongError, ConversationError
from tokenizers_zoo import save, tiny_llama

SAID = ["Hello", "What is your name?", "Nice to meet you", "日本語 😀", "Bye"]
TAUGHT = [["Hello", "Hi, how are you?", "Good, thanks!"], ["What is your name?", "Ann"], ["Bye", "See you soon"]]


@pytest.fixture(scope="module")
def gpt2(gpt2_folder: Path) -> ConversationModel:
    model = ConversationModel.from_pretrained(gpt2_folder, device="cpu")
    enliven(model.hf_model)
    return model


@pytest.fixture(scope="module")
def llama(bytelevel_folder: Path) -> ConversationModel:
    """A model without token types."""
    model = ConversationModel.from_pretrained(bytelevel_folder, device="cpu")
    enliven(model.hf_model, 20.0)
    return model


@pytest.fixture(scope="module")
def taught(unigram_folder: Path) -> ConversationModel:
    """A GPT-2 that has learned three conversations by heart, so that it ends its responses itself."""
    model = ConversationModel.from_pretrained(unigram_folder, device="cpu")
    model.fit(TAUGHT, max_steps=80, learning_rate=1e-2, batch_size=3)
    return model


@pytest.fixture(params=["gpt2", "llama"])
def model(request: pytest.FixtureRequest) -> ConversationModel:
    fixture: ConversationModel = request.getfixturevalue(request.param)
    return fixture


def close(stream: Any) -> None:
    stream.close()


# Turns.


def test_a_new_session_has_no_turns(model: ConversationModel) -> None:
    session = model.session()
    assert session.turns == []
    assert session.conversation is None
    assert session.finish_reason is None
    assert session.left_out == 0


def test_text_and_response_become_turns(model: ConversationModel) -> None:
    with scripted(model, "Fine", "Me too"):
        session = model.session()
        assert session.respond("How are you?") == "Fine"
        assert session.respond("Good") == "Me too"
    assert session.turns == ["How are you?", "Fine", "Good", "Me too"]
    assert session.conversation is not None
    assert session.conversation.turn_speakers == ("user", "assistant", "user", "assistant")
    assert session.finish_reason == "stop"


def test_the_limit_is_told_as_the_finish_reason(model: ConversationModel) -> None:
    with scripted(model, "One two three four five six"):
        session = model.session(do_sample=False, max_new_tokens=2)
        session.respond("Count")
    assert session.finish_reason == "length"


def test_session_equals_generate_on_all_turns(model: ConversationModel) -> None:
    session = model.session(do_sample=False, max_new_tokens=12)
    for text in SAID:
        before = [*session.turns, text]
        response = session.respond(text)
        assert response == model.generate(before, max_new_tokens=12, min_new_tokens=1).responses[0]
        assert session.turns == [*before, response]


def test_a_trained_model_talks_and_stops_in_a_session_as_in_generate(taught: ConversationModel) -> None:
    session = taught.session(do_sample=False)
    assert session.respond("Hello") == "Hi, how are you?"
    assert session.finish_reason == "stop"
    before = [*session.turns, "What is your name?"]
    assert session.respond("What is your name?") == taught.generate(before, min_new_tokens=1).responses[0]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"do_sample": True, "temperature": 0.8, "top_p": 0.95, "top_k": 0}),
        ({"temperature": 0.5}, {"do_sample": True, "temperature": 0.5, "top_p": 0.95, "top_k": 0}),
        ({"do_sample": True}, {"do_sample": True}),
        ({"do_sample": False}, {"do_sample": False}),
        ({"temperature": 0}, {"do_sample": False}),
        ({"num_beams": 2}, {}),
        (
            dict.fromkeys(["temperature", "do_sample", "num_beams", "min_new_tokens"]),
            {"do_sample": True, "temperature": 0.8, "top_p": 0.95, "top_k": 0},
        ),
    ],
)
def test_a_session_samples_as_chat_does(
    gpt2: ConversationModel, options: dict[str, Any], expected: dict[str, Any]
) -> None:
    hf = gpt2.session(**options)._options.hf
    assert {name: hf[name] for name in ("do_sample", "temperature", "top_p", "top_k") if name in hf} == expected
    assert hf["min_new_tokens"] == 1


@pytest.fixture
def asking(model: ConversationModel, monkeypatch: pytest.MonkeyPatch) -> ConversationModel:
    """A model that asks for candidates in chats."""
    chat = {"candidates": 4, "repeat_weight": 2.0, "temperature": 0.9}
    monkeypatch.setattr(model.hf_model.generation_config, "chat", chat, raising=False)
    return model


def test_none_stands_for_an_option_that_is_not_given(asking: ConversationModel) -> None:
    names = ["candidates", "rerank", "repeat_weight", "mmi_lambda", "temperature", "seed", "num_beams"]
    session = asking.session(**dict.fromkeys(names), max_new_tokens=6)
    assert session.options == {"max_new_tokens": 6}
    assert session.settings == asking.session(max_new_tokens=6).settings
    assert (session.setting("candidates"), session.setting("temperature")) == (4, 0.9)


@pytest.mark.slow
def test_a_session_draws_the_models_candidates(asking: ConversationModel) -> None:
    session = asking.session(seed=5, max_new_tokens=6)
    drawn = {"do_sample": True, "temperature": 0.9, "top_p": 0.95, "top_k": 0, "min_new_tokens": 1, "max_new_tokens": 6}
    best = {"candidates": 4, "repeat_weight": 2.0}
    assert session.respond("Hello") == asking.generate(["Hello"], **drawn, **best, seed=5).responses[0]
    assert session.regenerate() == asking.generate(["Hello"], **drawn, **best, seed=6).responses[0]
    session.set_options(temperature=1.2)
    session.reset()
    expected = asking.generate(["Hello"], **drawn | {"temperature": 1.2}, **best, seed=5).responses[0]
    assert session.respond("Hello") == expected


@pytest.mark.parametrize(
    "options", [{"candidates": 1}, {"do_sample": False}, {"temperature": 0}, {"use_cache": False}, {"num_beams": 1}]
)
def test_a_session_without_candidates_responds_as_before(
    asking: ConversationModel, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    said = asking.session(seed=5, max_new_tokens=6, **options).respond("Hello")
    monkeypatch.setattr(asking.hf_model.generation_config, "chat", {"temperature": 0.9})
    assert said == asking.session(seed=5, max_new_tokens=6, **options).respond("Hello")


def test_a_session_may_stop_sampling(gpt2: ConversationModel) -> None:
    session = gpt2.session(temperature=0.5, do_sample=True)
    session.set_options(do_sample=False)
    assert session.options == {"do_sample": False}
    session.set_options(do_sample=None)
    assert session._options.hf["temperature"] == 0.8


def test_an_option_that_does_not_exist_is_an_error_as_none_too(gpt2: ConversationModel) -> None:
    with pytest.raises(ConfigError, match="no generation option is called temprature"):
        gpt2.session(temprature=None)  # type: ignore[call-arg]


@pytest.mark.parametrize("options", [{"temperature": None}, {"top_p": None, "top_k": None}, {"temperature": 0}])
def test_only_options_that_sample_end_greedy_decoding(gpt2: ConversationModel, options: dict[str, Any]) -> None:
    session = gpt2.session(do_sample=False, max_new_tokens=4)
    expected = session.respond("Hello")

    session.set_options(**options)

    assert session.regenerate() == expected
    assert session.setting("do_sample") is False
    session.set_options(top_p=0.9)
    assert (session.setting("do_sample"), session.setting("top_p")) == (True, 0.9)
    assert session.setting("temperature") != 0
    assert session.respond("Hello") != ""


@pytest.mark.slow
def test_a_session_is_repeatable_by_its_seed(gpt2: ConversationModel) -> None:
    one, same = (gpt2.session(seed=3, max_new_tokens=12) for _ in range(2))
    assert one.respond("Hello") == same.respond("Hello")
    assert {gpt2.session(seed=seed, max_new_tokens=12).respond("Hello") for seed in range(4)} != {one.turns[1]}


def test_a_streamed_response_is_the_response(model: ConversationModel) -> None:
    responding, streaming = (
        model.session(do_sample=False, max_new_tokens=20),
        model.session(do_sample=False, max_new_tokens=20),
    )
    for text in SAID:
        assert "".join(streaming.stream(text)) == responding.respond(text)
    assert streaming.turns == responding.turns


def test_chunks_are_never_empty(model: ConversationModel) -> None:
    with scripted(model, "日本 😀😀"):
        assert "" not in list(model.session().stream("Hi"))


def test_the_turns_are_a_copy(model: ConversationModel) -> None:
    with scripted(model, "Fine"):
        session = model.session()
        session.respond("Hi")
    session.turns.append("More")
    assert session.turns == ["Hi", "Fine"]


def test_sessions_of_one_model_are_apart(gpt2: ConversationModel) -> None:
    one, other = gpt2.session(do_sample=False, max_new_tokens=8), gpt2.session(do_sample=False, max_new_tokens=8)
    one.respond("Hello")
    other.respond("Good morning")
    alone = gpt2.session(do_sample=False, max_new_tokens=8)
    alone.respond("Hello")
    assert one.respond("Well?") == alone.respond("Well?")


def test_options_hold_for_all_responses(gpt2: ConversationModel) -> None:
    session = gpt2.session(do_sample=True, temperature=2.0, seed=3, max_new_tokens=6)
    first = session.respond("Hello")
    expected = gpt2.generate(["Hello"], do_sample=True, temperature=2.0, seed=3, max_new_tokens=6, min_new_tokens=1)
    assert first == expected.responses[0]


@pytest.mark.parametrize("options", [{"max_tokens": 3}, {"penalty_alpha": 0.6}, {"max_new_tokens": 500}], ids=str)
def test_wrong_options_are_refused_when_the_session_opens(gpt2: ConversationModel, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        gpt2.session(**options)


def test_options_that_cannot_be_streamed_are_refused_and_change_nothing(gpt2: ConversationModel) -> None:
    with pytest.raises(ConfigError):
        gpt2.session(num_beams=3).respond("Hello")


# What is wrong with a text leaves the session as it was.


@pytest.mark.parametrize("text", ["", "  ", "\n\t", "\ud800"], ids=repr)
@pytest.mark.parametrize("say", [ChatSession.respond, ChatSession.stream])
def test_an_empty_or_broken_text_is_an_error_and_changes_nothing(
    model: ConversationModel, text: str, say: Callable[[ChatSession, str], Any]
) -> None:
    with scripted(model, "Fine"):
        session = model.session()
        session.respond("Hi")
    with pytest.raises(ConversationError):
        say(session, text)
    assert session.turns == ["Hi", "Fine"]
    assert session.finish_reason == "stop"


def test_an_empty_first_text_is_an_error(model: ConversationModel) -> None:
    session = model.session()
    with pytest.raises(ConversationError, match="empty"):
        session.respond("")
    assert session.turns == []


@pytest.mark.parametrize("say", [ChatSession.respond, ChatSession.stream])
def test_a_text_that_alone_is_too_long_is_an_error_and_changes_nothing(
    model: ConversationModel, say: Callable[[ChatSession, str], Any]
) -> None:
    with scripted(model, "Fine", "Still here"):
        session = model.session()
        session.respond("Hi")
        with pytest.raises(ContextTooLongError):
            say(session, "word " * 200)
        assert session.turns == ["Hi", "Fine"]
        assert session.finish_reason == "stop"
        assert session.respond("And now?") == "Still here"


def test_a_long_text_is_cut_where_that_was_allowed(model: ConversationModel) -> None:
    with scripted(model, "Fine") as script:
        session = model.session(cut_long_turn=True, max_new_tokens=8)
        assert session.respond("word " * 200) == "Fine"
    assert len(script.prompts[0]) == 120


# Regenerating, undoing, starting again.


def test_regenerate_replaces_the_newest_response(model: ConversationModel) -> None:
    with scripted(model, "Fine", "Splendid") as script:
        session = model.session()
        session.respond("How are you?")
        assert session.regenerate() == "Splendid"
    assert session.turns == ["How are you?", "Splendid"]
    assert script.prompts[0] == script.prompts[1]


def test_a_regenerated_response_can_be_streamed(model: ConversationModel) -> None:
    with scripted(model, "Fine", "Splendid as ever"):
        session = model.session()
        session.respond("How are you?")
        assert "".join(session.stream_again()) == "Splendid as ever"
    assert session.turns == ["How are you?", "Splendid as ever"]


def test_the_old_response_is_kept_until_the_new_one_says_something(model: ConversationModel) -> None:
    with scripted(model, "Fine", "Splendid"):
        session = model.session()
        session.respond("How are you?")
        stream = session.stream_again()
        assert session.turns == ["How are you?", "Fine"]
        close(stream)
        assert session.turns == ["How are you?", "Fine"]


def test_an_interrupted_regeneration_keeps_what_it_said(model: ConversationModel) -> None:
    with scripted(model, "Fine", "Splendid as ever"):
        session = model.session()
        session.respond("How are you?")
        stream = session.stream_again()
        said = next(stream)
        close(stream)
    assert session.turns == ["How are you?", said]


def test_regenerate_goes_on_from_the_same_context_later_in_a_session(model: ConversationModel) -> None:
    with scripted(model, "One", "Two", "Three", "Four") as script:
        session = model.session()
        session.respond("A")
        session.respond("B")
        session.regenerate()
        session.respond("C")
    assert session.turns == ["A", "One", "B", "Three", "C", "Four"]
    assert script.prompts[1] == script.prompts[2]


def test_undo_takes_back_the_newest_turn_and_its_response(model: ConversationModel) -> None:
    with scripted(model, "One", "Two"):
        session = model.session()
        session.respond("A")
        session.respond("B")
    assert session.undo() == "B"
    assert session.turns == ["A", "One"]
    assert session.undo() == "A"
    assert session.turns == []
    assert session.conversation is None


def test_a_session_goes_on_after_undo_as_if_it_had_not_been_said(gpt2: ConversationModel) -> None:
    session, plain = gpt2.session(do_sample=False, max_new_tokens=8), gpt2.session(do_sample=False, max_new_tokens=8)
    session.respond("Hello")
    session.respond("A mistake")
    session.undo()
    plain.respond("Hello")
    assert session.respond("Well") == plain.respond("Well")
    assert session.turns == plain.turns


def test_reset_goes_back_to_the_beginning(model: ConversationModel) -> None:
    with scripted(model, "One", "Two"):
        session = model.session()
        session.respond("A")
        session.reset()
        assert session.turns == []
        assert session.respond("B") == "Two"
    assert session.turns == ["B", "Two"]


def test_reset_forgets_how_the_newest_response_ended(gpt2: ConversationModel) -> None:
    with scripted(gpt2, "One", "Two", "Three"):
        session = gpt2.session(do_sample=False, max_new_tokens=100)
        session.respond("A word and another word and a word")
        session.respond("A word and another word and a word")
        session.respond("A word and another word and a word")
    assert session.left_out > 0
    session.reset()
    assert session.left_out == 0
    assert session.finish_reason is None


def test_no_more_turns_are_left_out_than_undo_leaves(gpt2: ConversationModel) -> None:
    with scripted(gpt2, *["I see"] * 12):
        session = gpt2.session()
        for number in range(12):
            session.respond(f"This is turn number {number}, and it says a few words")
    assert session.left_out > 10
    while session.turns:
        session.undo()
        assert session.left_out <= len(session.turns)


@pytest.mark.parametrize("take", [ChatSession.regenerate, ChatSession.stream_again, ChatSession.undo])
@pytest.mark.parametrize(
    "context",
    [
        (),
        ["Hello"],
        ["Hello", "Hi"],
        ["Hello", "Hi", "How are you"],
        [{"role": "system", "content": "Be brief"}],
        [{"role": "system", "content": "Be brief"}, {"role": "user", "content": "Hi"}],
    ],
    ids=str,
)
def test_where_nothing_was_said_there_is_nothing_to_take_back(
    gpt2: ConversationModel, context: Any, take: Callable[[ChatSession], Any]
) -> None:
    session = gpt2.session(context, do_sample=False)
    before = session.turns
    with pytest.raises(ConversationError, match="there is no"):
        take(session)
    assert session.turns == before


# A context to start from.


@pytest.mark.parametrize("context", [["Hello"], ["Hello", "Hi"], ["Hello", "Hi", "Well?"]], ids=len)
def test_a_session_goes_on_from_a_context(model: ConversationModel, context: list[str]) -> None:
    session = model.session(context, do_sample=False, max_new_tokens=8)
    response = session.respond("And you?")
    assert session.turns == [*context, "And you?", response]
    assert response == model.generate([*context, "And you?"], max_new_tokens=8, min_new_tokens=1).responses[0]


def test_undo_and_reset_leave_the_context(model: ConversationModel) -> None:
    context = ["Hello", "Hi"]
    with scripted(model, "One", "Two", "Three"):
        session = model.session(context)
        session.respond("A")
        assert session.undo() == "A"
        assert session.turns == context
        session.respond("B")
        session.respond("C")
    session.reset()
    assert session.turns == context
    with pytest.raises(ConversationError):
        session.undo()


def test_the_callers_list_is_not_the_sessions(model: ConversationModel) -> None:
    context = ["Hello", "Hi"]
    with scripted(model, "One"):
        session = model.session(context)
        session.respond("A")
    assert context == ["Hello", "Hi"]


def test_a_wrong_context_is_refused(gpt2: ConversationModel) -> None:
    with pytest.raises(ConversationError):
        gpt2.session("Hello")
    with pytest.raises(ConversationError):
        gpt2.session(["Hello", ""])


# Speakers.


@pytest.mark.parametrize("role", ["system", "developer", "persona"])
def test_after_a_pinned_turn_alone_the_user_speaks_first(model: ConversationModel, role: str) -> None:
    with scripted(model, "Fine"):
        session = model.session([{"role": role, "content": "Be brief"}])
        session.respond("How are you?")
    assert session.conversation is not None
    assert session.conversation.turn_speakers == (role, "user", "assistant")
    assert session.conversation.pinned == 1


def test_named_speakers_take_turns(model: ConversationModel) -> None:
    with scripted(model, "Fine", "Bye"):
        session = model.session(Conversation(["Hi", "Hello"], ["Ann", "Bob"]))
        session.respond("How are you?")
        session.respond("See you")
    assert session.conversation is not None
    assert session.conversation.turn_speakers == ("Ann", "Bob") * 3


def test_after_one_named_speaker_the_other_answers_to_the_default_name(gpt2: ConversationModel) -> None:
    with scripted(gpt2, "Fine"):
        session = gpt2.session(Conversation(["Hi"], ["Ann"]))
        session.respond("Hello")
    assert session.conversation is not None
    assert session.conversation.turn_speakers == ("Ann", "assistant", "Ann")


def test_reply_as_chooses_who_responds(model: ConversationModel) -> None:
    with scripted(model, "Fine", "Bye"):
        session = model.session(Conversation(["Hi", "Hello"], ["Ann", "Bob"]), reply_as="Ann")
        session.respond("How are you?")
        session.respond("See you")
    assert session.conversation is not None
    assert session.conversation.turn_speakers == ("Ann", "Bob", "Bob", "Ann", "Bob", "Ann")


def test_reply_as_in_a_new_session_swaps_the_roles(gpt2: ConversationModel) -> None:
    with scripted(gpt2, "Fine"):
        session = gpt2.session(reply_as="user")
        session.respond("How are you?")
    assert session.conversation is not None
    assert session.conversation.turn_speakers == ("assistant", "user")


def test_any_number_of_speakers_keep_their_types(gpt2: ConversationModel) -> None:
    context = Conversation(["Hi", "Hello", "Hey", "Good day"], ["Ann", "Bob", "Cem", "Dan"])
    session = gpt2.session(context, reply_as="Bob", do_sample=False, max_new_tokens=3)
    with watched(gpt2) as passes:
        session.respond("How are you all?")
    encode = gpt2.tokenizer.encode
    lengths = [1 + len(encode(turn)) for turn in (*context.turns, "How are you all?")]
    expected = [index for index, length in zip([0, 1, 2, 3, 2], lengths, strict=True) for _ in range(length)]
    assert passes[0].types == [[*expected, 1]]
    assert [step.types for step in passes[1:]] == [[[1]]] * 2
    assert session.conversation is not None
    assert session.conversation.turn_speakers[-2:] == ("Cem", "Bob")


def test_a_newcomer_may_respond(gpt2: ConversationModel) -> None:
    with scripted(gpt2, "Hello all"):
        session = gpt2.session(Conversation(["Hi", "Hello"], ["Ann", "Bob"]), reply_as="Zoe")
        session.respond("Who else is there?")
    assert session.conversation is not None
    assert session.conversation.turn_speakers == ("Ann", "Bob", "Ann", "Zoe")


def test_regenerate_and_undo_know_the_named_speakers(gpt2: ConversationModel) -> None:
    context = Conversation(["Hi", "Hello"], ["Ann", "Bob"])
    with scripted(gpt2, "Fine", "Splendid"):
        session = gpt2.session(context, reply_as="Ann")
        session.respond("How are you?")
        assert session.regenerate() == "Splendid"
    assert session.undo() == "How are you?"
    assert session.conversation == context


def test_without_token_types_a_third_speaker_is_refused_and_changes_nothing(llama: ConversationModel) -> None:
    session = llama.session(Conversation(["Hi", "Hello", "Hey"], ["Ann", "Bob", "Cem"]))
    with pytest.raises(ConversationError, match="token types"):
        session.respond("How are you?")
    assert session.turns == ["Hi", "Hello", "Hey"]


# A full context.


@pytest.mark.slow
def test_two_hundred_turns_fit_in_128_positions(model: ConversationModel) -> None:
    left_out = []
    with scripted(model, *["I see"] * 100) as script:
        session = model.session(do_sample=False, max_new_tokens=4)
        for number in range(100):
            assert session.respond(f"This is turn number {number}, and it says a few words") == "I see"
            left_out.append(session.left_out)
    assert len(session.turns) == 200
    assert left_out[0] == 0
    assert left_out == sorted(left_out)
    assert left_out[-1] > 180
    assert max(len(prompt) for prompt in script.prompts) <= 124


def test_the_newest_turns_are_those_in_the_prompt(gpt2: ConversationModel) -> None:
    with scripted(gpt2, *(f"Response {number}" for number in range(20))) as script:
        session = gpt2.session(do_sample=False, max_new_tokens=20)
        for number in range(20):
            session.respond(f"This is turn number {number}")
    seen = session.turns[session.left_out : -1]
    assert 2 < len(seen) < 39
    assert script.prompts[-1] == gpt2.tokenizer(seen)["input_ids"]
    assert len(script.prompts[-1]) <= 108
    assert min(len(prompt) for prompt in script.prompts[8:]) > 108 * 0.6


@pytest.mark.slow
def test_turns_leave_several_at_once_so_that_prompts_begin_alike(gpt2: ConversationModel) -> None:
    """Else the whole context would have to be read again at every turn of a long conversation."""
    with scripted(gpt2, *["I see"] * 60) as script:
        session = gpt2.session(do_sample=False, max_new_tokens=20)
        for number in range(60):
            session.respond(f"This is turn {number}")
    left = [earlier[1:8] != later[1:8] for earlier, later in itertools.pairwise(script.prompts)]
    assert 10 < sum(left) < 20


@pytest.mark.parametrize("rounds", [9, 10, 11, 12])
def test_speakers_keep_their_types_when_turns_leave(gpt2: ConversationModel, rounds: int) -> None:
    with watched(gpt2) as passes, scripted(gpt2, *["I see"] * rounds):
        session = gpt2.session()
        for number in range(rounds):
            gpt2.engine.caches.clear()  # so that the whole prompt is read
            session.respond(f"This is turn number {number}" + " indeed" * number)
    prompt = [step for step in passes if len(step.ids[0]) > 1][-1]
    speakers = [number % 2 for number in range(len(session.turns))]
    expected = [
        speaker
        for turn, speaker in list(zip(session.turns, speakers, strict=True))[session.left_out : -1]
        for _ in range(1 + len(gpt2.tokenizer.encode(turn)))
    ]
    assert session.left_out > 0
    assert prompt.types == [[*expected, 1]]


@pytest.mark.parametrize("role", ["system", "persona"])
def test_a_pinned_turn_stays_when_the_context_overflows(model: ConversationModel, role: str) -> None:
    pinned = "You are a pirate"
    with scripted(model, *(f"Response {number}" for number in range(15))) as script:
        session = model.session([{"role": role, "content": pinned}], max_new_tokens=20)
        for number in range(15):
            session.respond(f"This is turn number {number}, and it says a few words")
    head = [*model.tokenizer.prompt_to_continue(pinned).input_ids, model.tokenizer.sep_token_id]
    assert session.left_out > 10
    assert all(prompt[: len(head)] == head for prompt in script.prompts)
    assert session.turns[0] == pinned


def test_a_pinned_turn_stays_pinned_after_regenerate_and_undo(model: ConversationModel) -> None:
    with scripted(model, "One", "Two", "Three", "Four"):
        session = model.session([{"role": "system", "content": "Be brief"}])
        session.respond("A")
        session.respond("B")
        session.regenerate()
        assert session.conversation is not None
        assert session.conversation.pinned == 1
        session.undo()
        assert session.conversation.pinned == 1
        session.undo()
        assert session.conversation.pinned == 1
    assert session.turns == ["Be brief"]


# Interruptions.


def test_an_interrupted_response_becomes_the_turn_as_far_as_it_was_said(model: ConversationModel) -> None:
    with scripted(model, "One two three four", "Fine") as script:
        session = model.session()
        stream = session.stream("Count")
        said = next(stream) + next(stream)
        close(stream)
        assert session.turns == ["Count", said]
        assert "One two three four".startswith(said)
        assert session.finish_reason is None

        assert session.respond("Go on") == "Fine"
    assert session.turns == ["Count", said, "Go on", "Fine"]
    assert script.prompts[1] == model.tokenizer(["Count", said, "Go on"])["input_ids"]


def test_an_interrupted_response_has_no_finish_reason_whatever_came_before(model: ConversationModel) -> None:
    with scripted(model, "Fine", "One two three four"):
        session = model.session()
        session.respond("Hello")
        stream = session.stream("Count")
        next(stream)
        close(stream)
    assert session.finish_reason is None


def test_closing_ends_the_work(model: ConversationModel) -> None:
    with scripted(model, " one" * 40, seconds=0.01) as script:
        session = model.session(do_sample=False, max_new_tokens=50)
        stream = session.stream("Count")
        next(stream)
        close(stream)
        assert not [thread for thread in threading.enumerate() if thread.name == "convmodel-generate"]
    assert script.steps < 15


def test_an_interrupted_response_may_be_said_again(model: ConversationModel) -> None:
    with scripted(model, "One two three four", "Five"):
        session = model.session()
        stream = session.stream("Count")
        next(stream)
        close(stream)
        assert session.regenerate() == "Five"
    assert session.turns == ["Count", "Five"]


def test_an_interrupted_response_can_be_undone(model: ConversationModel) -> None:
    with scripted(model, "One two three four"):
        session = model.session()
        stream = session.stream("Count")
        next(stream)
        close(stream)
    assert session.undo() == "Count"
    assert session.turns == []


def test_a_response_that_nobody_reads_changes_nothing(model: ConversationModel) -> None:
    session = model.session()
    close(session.stream("Hello"))
    assert session.turns == []


class Interrupt:
    """Presses Ctrl+C at the first forward pass."""

    def __init__(self, model: ConversationModel) -> None:
        self.handle = model.hf_model.register_forward_hook(self.press)

    def press(self, *_: Any) -> None:
        self.handle.remove()
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
        time.sleep(0.1)


def test_ctrl_c_before_any_text_keeps_the_users_turn_unanswered(model: ConversationModel) -> None:
    with scripted(model, "One", "Three"):
        session = model.session()
        session.respond("Hello")
        Interrupt(model)
        with pytest.raises(KeyboardInterrupt):
            session.respond("And you?")
        assert session.turns == ["Hello", "One", "And you?"]
        assert session.finish_reason is None
        assert session.respond("Anyone?") == "Three"
    assert session.turns == ["Hello", "One", "And you?", "Anyone?", "Three"]


def test_ctrl_c_before_any_text_leaves_something_to_regenerate_and_undo(model: ConversationModel) -> None:
    with scripted(model, "Two"):
        session = model.session()
        Interrupt(model)
        with pytest.raises(KeyboardInterrupt):
            session.respond("Hello")
        assert session.regenerate() == "Two"
        assert session.turns == ["Hello", "Two"]
        assert session.undo() == "Hello"


def test_ctrl_c_before_a_regenerated_response_says_anything_keeps_the_old_one(model: ConversationModel) -> None:
    with scripted(model, "One", "Two"):
        session = model.session()
        session.respond("Hello")
        Interrupt(model)
        with pytest.raises(KeyboardInterrupt):
            session.regenerate()
    assert session.turns == ["Hello", "One"]


@pytest.mark.parametrize("say", [lambda session: session.respond("More"), ChatSession.regenerate])
def test_an_error_before_any_text_changes_nothing(model: ConversationModel, say: Callable[[ChatSession], str]) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("out of memory")

    with scripted(model, "One", "Three"):
        session = model.session()
        session.respond("Hello")
        handle = model.hf_model.register_forward_hook(fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            say(session)
        handle.remove()
        assert session.turns == ["Hello", "One"]
        assert session.respond("Still there?") == "Three"


# Responses that say nothing.


def test_a_model_that_only_wants_to_stop_must_say_something(model: ConversationModel) -> None:
    """A response of no tokens would be no turn."""
    word = model.tokenizer.encode("so")[-1]
    with scripted(model, "", otherwise=word):
        session = model.session()
        assert session.respond("Hello") == model.tokenizer.decode([word])
    assert session.turns == ["Hello", model.tokenizer.decode([word])]


@pytest.mark.parametrize("blank", [" ", "\n", " \n\n ", "\u3000"], ids=repr)
def test_a_blank_response_is_no_turn_and_the_session_goes_on(model: ConversationModel, blank: str) -> None:
    with scripted(model, blank, "Fine", "Bye"):
        session = model.session()
        session.respond("Hello")
        assert session.turns == ["Hello"]
        assert session.respond("Anyone?") == "Fine"
        assert session.respond("Well") == "Bye"
    assert session.turns == ["Hello", "Anyone?", "Fine", "Well", "Bye"]
    assert session.conversation is not None
    assert session.conversation.turn_speakers == ("user", "user", "assistant", "user", "assistant")


def test_a_blank_regenerated_response_keeps_the_old_one(model: ConversationModel) -> None:
    with scripted(model, "Fine", " "):
        session = model.session()
        session.respond("Hello")
        session.regenerate()
    assert session.turns == ["Hello", "Fine"]


def test_bytes_that_are_no_text_are_no_turn(model: ConversationModel) -> None:
    half = model.tokenizer.encode("😀")[:1]
    with scripted(model, half, "Fine"):
        session = model.session()
        assert session.respond("Hello").strip() == ""
        assert session.respond("Anyone?") == "Fine"
    assert session.turns == ["Hello", "Anyone?", "Fine"]


def test_two_turns_of_one_speaker_are_joined_where_there_are_no_token_types(llama: ConversationModel) -> None:
    with scripted(llama, " ", "Fine") as script:
        session = llama.session()
        session.respond("Hello")
        session.respond("Anyone?")
    assert script.prompts[1] == llama.tokenizer(["Hello\nAnyone?"])["input_ids"]


def test_joined_turns_that_leave_are_counted_one_by_one(llama: ConversationModel) -> None:
    turns = ["One " * 10, "Two " * 10, "Three " * 10, "Four"]
    context = Conversation(turns, ["Ann", "Ann", "Bob", "Ann"])
    with scripted(llama, "Fine"):
        output = llama.generate(context, max_new_tokens=90)
    assert output.left_out == 3


def test_with_a_seed_another_response_is_another_and_repeatable(gpt2: ConversationModel) -> None:
    said = []
    for _ in range(2):
        session = gpt2.session(do_sample=True, temperature=2.0, seed=0, max_new_tokens=12)
        said.append([session.respond("Hello"), session.regenerate(), session.regenerate()])

    assert said[0] == said[1]
    assert len(set(said[0])) == 3


def test_the_system_turn_can_be_replaced(gpt2: ConversationModel) -> None:
    session = gpt2.session(max_new_tokens=3)
    with pytest.raises(ConversationError):
        session.set_system(" ")
    assert session.conversation is None
    session.set_system("Be kind.")
    response = session.respond("Hello")
    session.set_system("Be rude.")

    assert session.conversation == Conversation(
        ["Be rude.", "Hello", response], ["system", "user", "assistant"], pinned=1
    )
    assert session.undo() == "Hello"
    session.reset()
    assert session.turns == ["Be rude."]
    assert not session.takes_system


def test_options_can_change_and_a_wrong_one_changes_nothing(gpt2: ConversationModel) -> None:
    session = gpt2.session(max_new_tokens=1)
    session.respond("Hello")
    assert session.finish_reason == "length"
    with pytest.raises(ConfigError):
        session.set_options(max_new_tokens=5, temprature=1)
    assert session.options == {"max_new_tokens": 1}

    session.set_options(max_new_tokens=None, num_beams=2)

    assert session.options == {"num_beams": 2}
    with pytest.raises(ConfigError, match="reply_as cannot change"):
        session.set_options(reply_as="Bob")


def test_a_session_continues_with_another_model(gpt2: ConversationModel, llama: ConversationModel) -> None:
    first = gpt2.session(Conversation(["Be kind."], ["system"], pinned=1), max_new_tokens=3)
    first.respond("Hello")
    other = llama.session(do_sample=False, max_new_tokens=3)

    other.continue_from(first)

    assert other.turns == first.turns
    expected = llama.session(first.conversation, do_sample=False, max_new_tokens=3).respond("And you?")
    assert other.respond("And you?") == expected
    assert (other.undo(), other.undo()) == ("And you?", "Hello")
    assert other.turns == ["Be kind."]


@pytest.fixture
def spaced(tmp_path: Path) -> ConversationModel:
    """A model whose template writes a space before each response."""
    save(tmp_path, make_tokenizer(SPACED, FORMS["chatml"].specials), tiny_llama)
    return ConversationModel.from_pretrained(tmp_path, device="cpu")


@pytest.mark.slow
def test_a_response_that_must_match_is_as_it_matches(spaced: ConversationModel) -> None:
    assert spaced.generate(["Hi"], regex=" yes").responses == [" yes"]


def test_the_space_that_a_template_writes_before_a_response_is_no_part_of_it(spaced: ConversationModel) -> None:
    model = spaced
    tokenizer = model.tokenizer
    ids = tokenizer.encode("Hello there")  # with the space, as in training
    reply = [*ids, tokenizer.end_token_id]
    assert tokenizer.decode(ids) == " Hello there"

    with scripted(model, *[reply] * 5) as script:
        session = model.session(do_sample=False)
        assert session.respond("Hi") == "Hello there"
        assert "".join(session.stream("How are you?")) == "Hello there"
        assert model.generate(["Hi"]).responses == ["Hello there"]
        assert model.generate(["Hi"], num_beams=2, num_return_sequences=1).responses == ["Hello there"]
    assert script.prompts[1][: len(script.prompts[0]) + len(reply)] == [*script.prompts[0], *reply]
    assert script.prompts[1] == tokenizer(["Hi", "Hello there", "How are you?"])["input_ids"]
