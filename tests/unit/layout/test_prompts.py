"""Prompts and windows of responses in the template layout; those of the separator layout are in `test_tokenizer`."""

from typing import Any

import pytest
from chat_templates import FORMS, make_tokenizer

from convmodel.conversation import Conversation
from convmodel.data.windows.encoding import encode_windows
from convmodel.errors import ContextTooLongError, ConversationError
from convmodel.hf_model.next_turn import as_last_turn
from convmodel.layout.tokenizer import ConversationTokenizer


def make(name: str, **options: Any) -> ConversationTokenizer:
    form = FORMS[name]
    return ConversationTokenizer(make_tokenizer(form.template, form.specials), layout="template", **options)


def test_the_oldest_turns_leave_until_the_prompt_fits_and_begins_with_the_user() -> None:
    tokenizer = make("gemma")
    turns = [f"turn {number} of some" for number in range(9)]
    whole = tokenizer.prompt(turns)
    for budget in range(len(whole.input_ids), 40, -1):
        prompt = tokenizer.prompt(turns, budget=budget)
        assert len(prompt.input_ids) <= budget
        assert prompt.left_out % 2 == 0
        assert prompt.input_ids == tokenizer.prompt(turns[prompt.left_out :]).input_ids
        if prompt.left_out:  # as many turns as fit
            assert len(tokenizer.prompt(turns[prompt.left_out - 2 :]).input_ids) > budget


def test_the_system_turn_stays() -> None:
    tokenizer = make("chatml")
    messages = [{"role": "system", "content": "Be kind."}]
    messages += [{"role": ("user", "assistant")[n % 2], "content": f"turn {n} of some"} for n in range(9)]
    prompt = tokenizer.prompt(messages, budget=60)
    assert 0 < prompt.left_out < 9
    assert prompt.input_ids == tokenizer.prompt([messages[0], *messages[prompt.left_out + 1 :]]).input_ids


def test_a_turn_that_is_too_long_is_cut_only_on_request() -> None:
    tokenizer = make("chatml")
    with pytest.raises(ContextTooLongError, match="the newest turn has"):
        tokenizer.prompt(["word " * 200], budget=90)
    prompt = tokenizer.prompt(["word " * 200], budget=90, cut_long_turn=True)
    assert len(prompt.input_ids) == 90
    assert prompt.cut


def test_the_user_can_respond_where_the_template_allows() -> None:
    tokenizer = make("mistral")
    prompt = tokenizer.prompt(["Hi", "Hello"], reply_as="user")
    assert tokenizer.hf_tokenizer.decode(prompt.input_ids) == "<s>[INST]Hi[/INST]Hello</s>[INST]"
    assert tokenizer.hf_tokenizer.convert_tokens_to_ids("[/INST]") in tokenizer.stop_token_ids


def test_nobody_responds_to_themselves() -> None:
    with pytest.raises(ConversationError, match="spoke last"):
        make("chatml").prompt(["Hi"], reply_as="user")


def test_the_assistant_responds_to_a_tool() -> None:
    messages = [{"role": role, "content": role} for role in ("user", "assistant", "tool")]
    tokenizer = make("phi")
    rendered = tokenizer.hf_tokenizer.apply_chat_template(messages, add_generation_prompt=True)["input_ids"]
    assert tokenizer.prompt(messages).input_ids == rendered


@pytest.mark.parametrize("name", ["chatml", "gemma"])
def test_responses_are_those_of_the_assistant_who_may_speak_first(name: str) -> None:
    tokenizer = make(name)
    messages = [{"role": role, "content": f"of the {role}"} for role in ("assistant", "user", "assistant")]
    [window] = tokenizer.windows(messages, max_length=200, loss_on="responses")
    learned = tokenizer.decode([label for label in window.labels if label != -100])
    assert learned == "of the assistant" * (1 if name == "gemma" else 2)  # Gemma's template begins with the user


def test_a_third_speaker_needs_names() -> None:
    messages = [{"role": name, "content": "Hi"} for name in ("Ann", "Bob", "Cem")]
    with pytest.raises(ConversationError, match="names='prefix'"):
        make("phi").prompt(messages)


def test_with_names_before_texts_the_responder_needs_another_role_than_the_turn_before() -> None:
    tokenizer = make("chatml", names="prefix")
    context = Conversation(["Hi", "Hello", "Me too"], ["Ann", "Bob", "Cem"], weights=[0, 1, 2])
    assert tokenizer.responder(context) == "Bob"
    for name, newest in (("Ann", "user"), ("Cem", "Cem")):
        with pytest.raises(ConversationError, match=f"{name!r} is to respond to {newest!r}, .* has no place: let an"):
            tokenizer.responder(context, name)


def test_with_names_before_texts_somebody_new_responds_as_the_assistant() -> None:
    tokenizer = make("chatml", names="prefix")
    context = Conversation(["Hi", "Hello"], ["Ann", "Bob"])
    prompt = tokenizer.prompt(context, reply_as="Bot")
    text = tokenizer.hf_tokenizer.decode(prompt.input_ids)
    assert text.endswith("user\nAnn: Hi\nBob: Hello<|im_end|>\n<|im_start|>assistant\n")
    [window] = tokenizer.windows(context.with_turn("Hey", "Bot"), max_length=99, loss_on="last")  # as `score` does
    assert window.input_ids[: len(prompt.input_ids)] == prompt.input_ids
    assert window.labels[: len(prompt.input_ids)] == [-100] * len(prompt.input_ids)


def test_with_names_before_texts_a_user_named_by_loss_on_is_an_error_and_not_left_out() -> None:
    tokenizer = make("chatml", names="prefix").with_layout(loss_on="Bob")
    group = Conversation(["Hi", "Hello", "Hey"], ["Ann", "Bob", "Cem"])
    with pytest.raises(ConversationError, match=r"loss_on names Ann, but .* the assistant only, here Bob"):
        tokenizer.windows(group, max_length=99, loss_on="Ann")
    plain = Conversation(["Hi", "Hello"], ["Dan", "Ann"])
    with pytest.raises(ConversationError, match=r"conversation 2: loss_on names Ann"):
        encode_windows([plain, group], tokenizer, max_length=99, loss_on="Ann")
    encoded = encode_windows([plain, group], tokenizer, max_length=99, loss_on="Ann", on_error="skip")
    assert (len(encoded.windows), encoded.summary.skipped) == (1, 1)
    assert tokenizer.windows(group, max_length=99, loss_on="Dan") == []  # as without names, where he does not speak
    assert tokenizer.prompt(group).input_ids  # supervises nothing


def test_a_third_speaker_who_speaks_last_is_the_assistant_where_turns_are_ranked() -> None:
    group = Conversation(["Hi", "Hello", "Hey"], ["Ann", "Bob", "Cem"])
    laid_out = as_last_turn(make("chatml", names="prefix"), group)
    assert (laid_out.turns, laid_out.turn_speakers[-1]) == (("Ann: Hi\nBob: Hello", "Hey"), "Cem")


@pytest.mark.parametrize("name", ["chatml", "gemma", "rewriting"])
def test_a_response_alone_is_all_supervised(name: str) -> None:
    tokenizer = make(name)
    ids = tokenizer.encode("Hello there")
    window = tokenizer.window_of_response(ids, is_closed=True)
    assert [label for label in window.labels if label != -100] == [*ids, tokenizer.layout.markers.end("user")]
    assert tokenizer.window_of_response(ids, is_closed=False).labels[-1] == -100
