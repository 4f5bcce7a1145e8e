"""Matchers: what they refuse, in one line, and what they call legal."""

from typing import Any

import pytest

from convmodel.errors import ConfigError
from convmodel.generation.constraints.grammar import Grammar, read_grammar
from convmodel.generation.constraints.matching import is_json, make_matcher, make_tokenizer, shortened

TOKENS = [b"a", b"ab", b"", b"b"]
TOKENIZER = make_tokenizer(TOKENS, 2, lambda content: [TOKENS.index(content)] if content in TOKENS else None)


def text_of(**options: str) -> str:
    grammar = read_grammar(options)
    assert isinstance(grammar, Grammar)
    return grammar.text


def legal(matcher: Any) -> list[int]:
    [bits] = matcher.compute_bitmask()[:1]
    return [index for index in range(len(TOKENS)) if bits >> index & 1]


def test_legal_tokens_are_those_that_the_grammar_allows() -> None:
    matcher = make_matcher(TOKENIZER, text_of(regex="ab|a|b{2}"))
    assert legal(matcher) == [0, 1, 3]
    assert matcher.consume_token(1)
    assert matcher.is_accepting()
    assert 2 in legal(matcher)


def test_a_text_that_is_required_is_written_as_the_vocabulary_has_it() -> None:
    matcher = make_matcher(TOKENIZER, text_of(regex="ab|abb"))
    assert legal(matcher) == [1]


def test_a_text_that_the_vocabulary_cannot_write_ends_the_matcher() -> None:
    matcher = make_matcher(TOKENIZER, text_of(regex="abcd"))
    matcher.compute_bitmask()
    assert matcher.is_error()


def test_a_malformed_grammar_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigError, match="unclosed group") as raised:
        make_matcher(TOKENIZER, text_of(regex="(a"))
    assert "\n" not in str(raised.value)


def test_a_long_message_is_cut() -> None:
    assert len(shortened("a" * 1000)) == 300


def test_only_schemas_are_json() -> None:
    assert is_json(text_of(json_schema="{}"))
    assert not is_json(text_of(regex="a"))
    assert not is_json(text_of(grammar='start: "a"'))
