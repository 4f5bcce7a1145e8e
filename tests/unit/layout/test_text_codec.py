"""The text of turns to ids and back."""

from chat_templates import FORMS, make_tokenizer

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
