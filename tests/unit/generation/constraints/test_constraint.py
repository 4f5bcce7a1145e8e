"""Responses that match to the last token, whatever a model wants to say and however few tokens are left."""

import json
import random
from collections.abc import Callable
from typing import Any

import jsonschema_rs
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from json_schemas import SCHEMAS

from convmodel import ConversationTokenizer
from convmodel.errors import ConfigError
from convmodel.generation.constraints import constraint as constraint_module
from convmodel.generation.constraints.checking import CHECKER
from convmodel.generation.constraints.constraint import ConstrainedResponse, Constraint, constraint_of, legal_tokens
from convmodel.generation.constraints.grammar import Grammar, read_grammar
from convmodel.generation.constraints.vocabulary import Vocabulary

PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "tags": {"type": "array", "items": {"type": "string"}}},
    "required": ["name", "tags"],
    "additionalProperties": False,
}
LISTS: dict[str, Any] = {"type": "array", "items": {"type": "array", "items": {"type": "integer"}}, "minItems": 3}
Choose = Callable[[torch.Tensor], int]


def grammar(**options: Any) -> Grammar:
    result = read_grammar(options)
    assert result is not None
    return result


def respond(tokenizer: ConversationTokenizer, constraint: Constraint, most: int, choose: Choose) -> list[int]:
    """Returns the tokens of a response whose every token `choose` takes from the legal ones."""
    response = ConstrainedResponse(constraint, tokenizer.stop_token_ids, most)
    tokens: list[int] = []
    while len(tokens) < most:
        legal = response.legal(len(tokens), len(tokenizer) + 7)
        assert legal.any()
        token = response.accept(len(tokens), choose(legal))
        if token in tokenizer.stop_token_ids:
            return tokens
        tokens.append(token)
    raise AssertionError(f"cut: {tokenizer.decode(tokens)}")


def at_random(seed: int, *, ends: float = 0.2) -> Choose:
    chance = random.Random(seed)

    def choose(legal: torch.Tensor) -> int:
        ids = legal.nonzero()[:, 0].tolist()
        return ids[0] if chance.random() < ends else chance.choice(ids)

    return choose


@pytest.mark.slow
def test_any_schema_is_obeyed_to_the_last_token(gpt2_tokenizer: ConversationTokenizer) -> None:
    obeyed: list[bool] = []

    @settings(max_examples=25, deadline=None)
    @given(SCHEMAS, st.integers(0, 99), st.integers(0, 3))
    def check(schema: Any, seed: int, room: int) -> None:
        try:
            constraint = constraint_of(gpt2_tokenizer, grammar(json_schema=schema))
        except ConfigError:
            obeyed.append(False)
            return  # it contradicts itself
        most = len(constraint.closing) + 1 + 7 * room
        text = gpt2_tokenizer.decode(respond(gpt2_tokenizer, constraint, most, at_random(seed)))
        jsonschema_rs.validate(schema, json.loads(text), validate_formats=True)
        obeyed.append(True)

    check()
    assert sum(obeyed) > len(obeyed) / 2


@pytest.mark.slow
def test_every_family_of_vocabularies_is_constrained(family: ConversationTokenizer) -> None:
    constraint = constraint_of(family, grammar(json_schema=PERSON))
    for seed in range(5):
        value = json.loads(family.decode(respond(family, constraint, 60, at_random(seed))))
        jsonschema_rs.validate(PERSON, value)


@pytest.mark.slow
def test_a_response_of_the_least_tokens_is_the_closing(gpt2_tokenizer: ConversationTokenizer) -> None:
    constraint = constraint_of(gpt2_tokenizer, grammar(json_schema=PERSON))
    tokens = respond(gpt2_tokenizer, constraint, len(constraint.closing) + 1, at_random(0, ends=0.0))
    assert tokens == constraint.closing


def test_too_few_tokens_are_refused_before_the_first(gpt2_tokenizer: ConversationTokenizer) -> None:
    constraint = constraint_of(gpt2_tokenizer, grammar(json_schema=PERSON))
    with pytest.raises(ConfigError, match=rf"max_new_tokens is 3: .* has {len(constraint.closing) + 1} tokens"):
        ConstrainedResponse(constraint, gpt2_tokenizer.stop_token_ids, 3)


def test_control_tokens_are_never_legal(gpt2_tokenizer: ConversationTokenizer) -> None:
    constraint = constraint_of(gpt2_tokenizer, grammar(regex="(.|\n)*"))
    response = ConstrainedResponse(constraint, [50256], 9)
    legal = response.legal(0, 50300)
    assert legal[:50256].sum() > 50000
    assert legal[50256], "an empty text matches"
    assert not legal[50257:].any(), "ids past the vocabulary"
    strict = ConstrainedResponse(constraint_of(gpt2_tokenizer, grammar(regex="(.|\n)+")), [50256], 9)
    assert not strict.legal(0, 50300)[50256]


def test_a_grammar_cannot_make_control_tokens_legal(gpt2_tokenizer: ConversationTokenizer) -> None:
    with pytest.raises(ConfigError, match="no response that matches it was found"):
        constraint_of(gpt2_tokenizer, grammar(grammar="start: <[256]>"))
    either = grammar(grammar='start: <[256]> "x" | "a"')
    vocabulary = Vocabulary([*(bytes([byte]) for byte in range(256)), None], [256])
    response = ConstrainedResponse(Constraint(either, vocabulary, CHECKER.check(either)), [256], 9)
    assert response.legal(0, 257).nonzero()[:, 0].tolist() == [ord("a")]


def test_a_step_that_was_interrupted_is_repeated(gpt2_tokenizer: ConversationTokenizer) -> None:
    constraint = constraint_of(gpt2_tokenizer, grammar(regex="a?b"))
    response = ConstrainedResponse(constraint, [50256], 9)
    a, b = gpt2_tokenizer.encode("a") + gpt2_tokenizer.encode("b")
    assert response.accept(0, a) == a
    assert response.accept(0, b) == b
    assert response.legal(1, 50257).nonzero()[:, 0].tolist() == [50256]


def test_a_matcher_that_fails_is_completed_on_the_known_way(gpt2_tokenizer: ConversationTokenizer) -> None:
    constraint = constraint_of(gpt2_tokenizer, grammar(json_schema=PERSON))
    response = ConstrainedResponse(constraint, [50256], 40)
    response._state.matcher.consume_token(gpt2_tokenizer.encode("x")[0])  # which is not legal
    tokens: list[int] = []
    while (token := response.accept(len(tokens), int(response.legal(len(tokens), 50257).nonzero()[0]))) != 50256:
        tokens.append(token)
    assert tokens == constraint.closing


def test_the_choice_of_the_model_is_kept_where_it_is_legal(gpt2_tokenizer: ConversationTokenizer) -> None:
    constraint = constraint_of(gpt2_tokenizer, grammar(json_schema=PERSON))
    response = ConstrainedResponse(constraint, [50256], 60)
    wanted = gpt2_tokenizer.encode('{"name":"Ann","tags":["a dog","cats"]}')
    assert [response.accept(length, token) for length, token in enumerate(wanted)] == wanted


@pytest.mark.parametrize("size", [50257, 50300])
def test_a_call_is_optional(gpt2_tokenizer: ConversationTokenizer, size: int) -> None:
    constraint = constraint_of(gpt2_tokenizer, grammar(json_schema=PERSON))
    [brace], [text] = gpt2_tokenizer.encode('{"'), gpt2_tokenizer.encode("Hi")
    other = constraint.vocabulary.pieces.index(b"{{")

    free = legal_tokens(constraint, [50256], 40, optional=True)
    first = free.legal(0, size)
    assert (first[brace], first[text], first[50256], first[other]) == (True, True, True, False)
    assert first[50257:].all(), "as without a schema"
    assert free.accept(0, text) == text
    assert free.legal(1, size).all()
    assert free.accept(1, other) == other
    assert free.forced(2) == 50256

    call = legal_tokens(constraint, [50256], 40, optional=True)
    assert call.accept(0, brace) == brace
    assert not call.legal(1, size)[text]
    assert call.accept(1, text) != text


@pytest.mark.parametrize("blank", [b" ", b"\n", b"\n\n", b"\r", b"\t"])
def test_a_call_begins_after_white_space(gpt2_tokenizer: ConversationTokenizer, blank: bytes) -> None:
    constraint = constraint_of(gpt2_tokenizer, grammar(json_schema=PERSON))
    pieces = constraint.vocabulary.pieces
    space, brace, begin, spaced = (pieces.index(piece) for piece in (blank, b"{", b'{"', b" {"))

    call = legal_tokens(constraint, [50256], 40, optional=True)
    assert call.legal(0, 50257)[[begin, spaced, space]].all()
    assert call.accept(0, spaced) == begin
    assert not call.legal(1, 50257)[spaced]

    apart = legal_tokens(constraint, [50256], 40, optional=True)
    assert apart.accept(0, space) == space
    assert apart.legal(1, 50257)[[begin, spaced]].all()
    assert apart.accept(1, begin) == begin
    assert not apart.legal(2, 50257)[spaced]
    assert apart.accept(2, spaced) != spaced

    free = legal_tokens(constraint, [50256], 40, optional=True)
    assert [free.accept(0, space), free.accept(1, space)] == [space, space]
    assert free.legal(2, 50257).sum() == 50257 - sum(piece.lstrip(b" ").startswith(b"{") for piece in pieces)
    assert free.accept(1, brace + 1) == brace + 1, "as if the step was repeated"
    assert free.legal(2, 50257).all()


@pytest.mark.parametrize("blank", [b"\x0b", b"\x0c", b"\xc2\xa0"])
def test_a_text_may_begin_with_other_space_and_a_brace(gpt2_tokenizer: ConversationTokenizer, blank: bytes) -> None:
    """It is not read as a call."""
    constraint = constraint_of(gpt2_tokenizer, grammar(json_schema=PERSON))
    free = legal_tokens(constraint, [50256], 40, optional=True)
    for length, token in enumerate(constraint.vocabulary.split(blank) or ()):
        assert free.accept(length, token) == token
    assert free.legal(length + 1, 50257).all()


def test_no_token_hides_the_beginning_of_a_call_behind_white_space() -> None:
    pieces, one = [b"{", b"\n{", b"\r\n {", b"\x0b{", b"\n", b"a", b"}"], grammar(regex=r"\{a\}")
    constraint = Constraint(one, Vocabulary([*pieces, None], [len(pieces)]), CHECKER.check(one))
    for token in range(len(pieces)):
        call = legal_tokens(constraint, [len(pieces)], 9, optional=True)
        assert call.accept(0, token) == (0 if token in (1, 2) else token)
        is_call = call.legal(1, len(pieces) + 1)[:6].tolist() == [False] * 5 + [True]
        assert is_call == (token in (0, 1, 2))


@pytest.mark.parametrize("more", [0, 1, 30])
def test_a_call_after_a_space_is_never_cut(gpt2_tokenizer: ConversationTokenizer, more: int) -> None:
    constraint = constraint_of(gpt2_tokenizer, grammar(json_schema=PERSON))
    most = len(constraint.closing) + 1 + more
    response, choose = legal_tokens(constraint, [50256], most, optional=True), at_random(3)
    tokens = [response.accept(0, constraint.vocabulary.pieces.index(b" "))]
    begin = constraint.vocabulary.pieces.index(b'{"')
    if response.legal(1, 50257)[begin]:
        tokens.append(response.accept(1, begin))
        while (token := response.accept(len(tokens), choose(response.legal(len(tokens), 50257)))) != 50256:
            tokens.append(token)
            assert len(tokens) < most
        jsonschema_rs.validate(PERSON, json.loads(gpt2_tokenizer.decode(tokens)))
    assert (len(tokens) > 1) == (more > 0)


def test_a_response_that_must_match_is_not_optional(gpt2_tokenizer: ConversationTokenizer) -> None:
    constraint = constraint_of(gpt2_tokenizer, grammar(json_schema=PERSON))
    assert isinstance(legal_tokens(constraint, [50256], 40, optional=False), ConstrainedResponse)


def test_a_response_without_steps_left_is_completed_on_the_known_way(
    gpt2_tokenizer: ConversationTokenizer, monkeypatch: pytest.MonkeyPatch
) -> None:
    constraint = constraint_of(gpt2_tokenizer, grammar(json_schema=LISTS))
    free = respond(gpt2_tokenizer, constraint, 60, at_random(1))
    assert free != constraint.closing
    monkeypatch.setattr(constraint_module, "_RESPONSE_STEPS", -(10**6))
    bound = respond(gpt2_tokenizer, constraint, 60, at_random(1))
    jsonschema_rs.validate(LISTS, json.loads(gpt2_tokenizer.decode(bound)))
    assert len(bound) < len(free)


def test_earlier_responses_do_not_change_later_ones(gpt2_tokenizer: ConversationTokenizer) -> None:
    """A lexer has at most so many states: each response needs its own."""
    constraint = constraint_of(gpt2_tokenizer, grammar(regex="[a-z ]*a[a-z ]{60}"))
    first = respond(gpt2_tokenizer, constraint, 90, at_random(0, ends=0.0))
    assert len(first) > len(constraint.closing)
    for seed in range(1, 4):
        respond(gpt2_tokenizer, constraint, 90, at_random(seed, ends=0.0))
    assert respond(gpt2_tokenizer, constraint, 90, at_random(0, ends=0.0)) == first


def test_compiled_grammars_are_shared(gpt2_tokenizer: ConversationTokenizer) -> None:
    assert constraint_of(gpt2_tokenizer, grammar(regex="ab")) is constraint_of(gpt2_tokenizer, grammar(regex="ab"))
