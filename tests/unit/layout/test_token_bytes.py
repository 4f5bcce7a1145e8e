"""The exact bytes of tokens: joined, they are the text that decoding gives."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from convmodel import ConversationTokenizer
from convmodel.layout.token_bytes import bytes_of_tokens
from tokenizers_zoo import sentencepiece


def test_the_bytes_of_a_byte_level_vocabulary_join_to_the_text(gpt2_tokenizer: ConversationTokenizer) -> None:
    tokens = bytes_of_tokens(gpt2_tokenizer.hf_tokenizer)

    @given(st.text(max_size=40))
    def check(text: str) -> None:
        assert tokens is not None
        assert b"".join(tokens[index] or b"?" for index in gpt2_tokenizer.encode(text)) == text.encode()

    check()


@given(st.text(st.sampled_from("ab é😀z"), max_size=20))
def test_the_bytes_of_sentencepiece_join_to_the_text(text: str) -> None:
    tokenizer = sentencepiece()
    tokens = bytes_of_tokens(tokenizer)
    assert tokens is not None
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert b"".join(tokens[index] or b"?" for index in ids) == text.encode()


def test_a_letter_of_latin_1_is_no_byte_in_sentencepiece() -> None:
    tokenizer = sentencepiece()
    tokens = bytes_of_tokens(tokenizer)
    assert tokens is not None
    assert tokens[tokenizer.convert_tokens_to_ids("é")] == "é".encode()


def test_control_tokens_are_no_text(family: ConversationTokenizer) -> None:
    tokens = bytes_of_tokens(family.hf_tokenizer)
    if tokens is None:
        pytest.skip("a vocabulary without exact text")
    assert all(tokens[index] is None for index in family.stop_token_ids)
    assert all(tokens[index] is None for index in family.hf_tokenizer.all_special_ids if index < len(tokens))


def test_a_vocabulary_of_words_has_no_exact_text() -> None:
    backend: Any = Tokenizer(models.WordPiece({"[UNK]": 0, "a": 1, "##b": 2}, unk_token="[UNK]"))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Whitespace(), decoders.WordPiece()
    assert bytes_of_tokens(PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]")) is None
