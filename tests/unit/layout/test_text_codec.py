"""The text of turns to ids and back."""

from dataclasses import replace

import pytest
from chat_templates import FORMS, SPACED, make_tokenizer

from convmodel.layout.text_codec import TextCodec
from convmodel.layout.tokenizer import ConversationTokenizer


def test_a_text_comes_back_whatever_the_vocabulary_puts_before_words() -> None:
    for name in ("chatml", "zephyr, prefixed"):
        form = FORMS[name]
        tokenizer = ConversationTokenizer(make_tokenizer(form.template, form.specials, has_prefix=form.has_prefix))
        assert tokenizer.layout.name == "template"
        for text in ("Hello, how are you?", "x", "It's 10:45", "two  spaces\n\nand lines"):
            assert tokenizer.decode(tokenizer.encode(text)) == text


def test_ids_that_also_end_a_response_are_not_text() -> None:
    form = FORMS["chatml"]
    hf_tokenizer = make_tokenizer(form.template, [*form.specials, "<|endofresponse|>"])
    hf_tokenizer.add_tokens(["<|other end|>"])  # not a special token
    other = hf_tokenizer.convert_tokens_to_ids("<|other end|>")
    tokenizer = ConversationTokenizer(hf_tokenizer, stop_ids=[other])
    assert other in tokenizer.stop_token_ids
    assert tokenizer.decode([*tokenizer.encode("Hello"), other]) == "Hello"


@pytest.mark.parametrize(("has_prefix", "expected"), [(False, " "), (True, "")])
def test_a_space_of_the_template_is_decoded_unless_the_decoder_drops_it(has_prefix: bool, expected: str) -> None:
    form = FORMS["chatml"]
    tokenizer = ConversationTokenizer(make_tokenizer(form.template, form.specials, has_prefix=has_prefix))
    assert tokenizer.layout.template is not None
    template = replace(tokenizer.layout.template, leads={"assistant": " "})
    codec = TextCodec(tokenizer.hf_tokenizer, replace(tokenizer.layout, template=template), ())
    assert [codec.decoded_lead(role) for role in ("assistant", "user")] == [expected, ""]
    assert codec.decode(codec.encode("Hello")).removeprefix(expected) == "Hello"


def test_a_prompt_has_the_space_that_the_response_begins_with() -> None:
    tokenizer = ConversationTokenizer(make_tokenizer(SPACED, FORMS["chatml"].specials))
    assert tokenizer.prompt(["Hi"]).lead == tokenizer.prompt(["Hi", "Hello"]).lead == " "
    assert tokenizer.prompt_to_continue("Once upon").lead == ""
