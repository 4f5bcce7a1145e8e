"""A vocabulary in llguidance's form: bytes split into tokens, and control tokens that are in none."""

import copy
import gc
import weakref

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convmodel import ConversationTokenizer
from convmodel.errors import ConfigError
from convmodel.generation.constraints import vocabulary
from convmodel.generation.constraints.constraint import constraint_of
from convmodel.generation.constraints.grammar import read_grammar
from convmodel.generation.constraints.vocabulary import Vocabulary, vocabulary_of


@pytest.mark.slow
def test_it_is_converted_once(gpt2_tokenizer: ConversationTokenizer) -> None:
    assert vocabulary_of(gpt2_tokenizer) is vocabulary_of(gpt2_tokenizer)


@pytest.mark.slow
def test_control_tokens_are_no_text(gpt2_tokenizer: ConversationTokenizer) -> None:
    converted = vocabulary_of(gpt2_tokenizer)
    assert len(converted.is_text) == len(gpt2_tokenizer)
    assert not converted.is_text[gpt2_tokenizer.stop_token_ids].any()
    assert converted.is_text.sum() == len(gpt2_tokenizer) - 1
    assert None not in converted.byte_ids


@given(st.binary(max_size=60))
def test_any_bytes_are_split(content: bytes) -> None:
    pieces = [*(bytes([byte]) for byte in range(256)), b"ab", b"abc", b"x" * 40]
    converted = Vocabulary([*pieces, None], [258 + 1])
    ids = converted.split(content)
    assert ids is not None
    assert b"".join(converted.pieces[index] for index in ids) == content


def test_the_longest_tokens_are_taken() -> None:
    converted = Vocabulary([b"a", b"b", b"ab", b"abc", None], [4])
    assert converted.split(b"abab") == [2, 2]
    assert converted.split(b"abz") is None


def test_a_vocabulary_without_exact_text_is_refused(
    bytelevel_tokenizer: ConversationTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(vocabulary, "bytes_of_tokens", lambda _: None)
    monkeypatch.setattr(vocabulary, "_VOCABULARIES", {})
    with pytest.raises(ConfigError, match="byte-level or SentencePiece"):
        vocabulary_of(bytelevel_tokenizer)


def test_it_is_freed_with_its_tokenizer(bytelevel_tokenizer: ConversationTokenizer) -> None:
    tokenizer = copy.deepcopy(bytelevel_tokenizer)
    grammar = read_grammar({"json_schema": {"const": "abc"}})
    assert grammar is not None
    constraint = constraint_of(tokenizer, grammar)
    matcher = constraint.matcher()
    assert matcher.consume_token(constraint.closing[0])
    assert matcher.compute_ff_tokens()  # which llguidance encodes with the vocabulary
    references = [weakref.ref(each) for each in (tokenizer, constraint, vocabulary_of(tokenizer))]
    del tokenizer, constraint, matcher
    gc.collect()
    assert [reference() for reference in references] == [None] * 3
