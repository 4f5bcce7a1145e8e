"""Tokens for people: every position is there, and nothing in it is invisible."""

import unicodedata
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from convmodel import Conversation, ConversationTokenizer
from convmodel.layout.sequence import IGNORED
from convmodel.layout.token_bytes import bytes_of_tokens
from convmodel.layout.token_view import token_bytes, token_text, token_view, visible, visible_line
from tokenizers_zoo import sentencepiece

TALK = Conversation(["Be kind.", "Hello [bold]\nyou[/]", "How are you", "Fine"], ["system", "Ann", "Bob", "Ann"], 1)


def test_each_position_of_a_window_is_shown(gpt2_tokenizer: ConversationTokenizer) -> None:
    [shown] = token_view(gpt2_tokenizer, TALK, max_length=64, loss_on="Bob")
    [window] = gpt2_tokenizer.windows(TALK, max_length=64, loss_on="Bob")

    assert [token.id for token in shown] == window.input_ids
    assert [token.supervised for token in shown] == [label != IGNORED for label in window.labels]
    assert [token.is_marker for token in shown] == [index == 50256 for index in window.input_ids]
    assert [token.text for token in shown] == [
        *("<sep>", "Be", "·kind", "."),
        *("<sep>", "Hello", "·[", "bold", "]", "↵", "you", "[/", "]"),
        *("<sep>", "How", "·are", "·you", "<sep>"),
    ]
    assert [token.speaker for token in shown if token.is_marker] == ["system", "Ann", "Bob", "Ann"]
    assert [token.text for token in shown if token.supervised] == ["How", "·are", "·you", "<sep>"]


def test_a_long_conversation_has_several_windows(gpt2_tokenizer: ConversationTokenizer) -> None:
    shown = token_view(gpt2_tokenizer, TALK, max_length=12, loss_on="all")

    assert [len(window) for window in shown] == [
        len(window.input_ids) for window in gpt2_tokenizer.windows(TALK, max_length=12, loss_on="all")
    ]
    assert len(shown) > 1


def test_a_conversation_without_a_supervised_turn_has_no_window(gpt2_tokenizer: ConversationTokenizer) -> None:
    assert token_view(gpt2_tokenizer, TALK, max_length=64, loss_on="nobody") == []


def test_a_tokenizer_that_joins_turns_names_its_speakers_too(bytelevel_tokenizer: ConversationTokenizer) -> None:
    talk = Conversation(["Hi", "Hello", "you"], ["Ann", "Ann", "Bob"])

    [shown] = token_view(bytelevel_tokenizer, talk, max_length=64, loss_on="all")

    assert list(dict.fromkeys(token.speaker for token in shown)) == ["Ann", "Bob"]
    assert "↵" in "".join(token.text for token in shown)


def test_the_beginning_of_text_is_shown(bytelevel_tokenizer: ConversationTokenizer) -> None:
    [shown] = token_view(bytelevel_tokenizer, Conversation(["Hi", "Hello"]), max_length=64, loss_on="all")
    assert [token.text for token in shown[:2]] == ["<|begin_of_text|>", "<sep>"]
    assert shown[0].is_marker
    assert not shown[0].supervised


@pytest.mark.parametrize(
    ("text", "pieces"),
    [
        (" you", ["·you"]),
        ("a\tb", ["a", "⇥", "b"]),
        ("é", ["é"]),
        ("🦜", ["⟨F09F⟩", "⟨A6⟩", "⟨9C⟩"]),
        (" 🦜", ["·⟨F09F⟩", "⟨A6⟩", "⟨9C⟩"]),
        ("\u200b", ["⟨U+200B⟩"]),
    ],
)
def test_a_piece_shows_what_the_token_holds(
    gpt2_tokenizer: ConversationTokenizer, text: str, pieces: list[str]
) -> None:
    assert [token_text(gpt2_tokenizer, index) for index in gpt2_tokenizer.encode(text)] == pieces


def test_pieces_of_sentencepiece_keep_their_spaces(zoo_folders: dict[str, str]) -> None:
    tokenizer = ConversationTokenizer.from_pretrained(zoo_folders["unigram"])

    pieces = [token_text(tokenizer, index) for index in tokenizer.encode("Hello you 🦜")]

    assert "".join(pieces).startswith("·Hello·you·")
    assert pieces[-4:] == ["⟨F0⟩", "⟨9F⟩", "⟨A6⟩", "⟨9C⟩"]


def test_a_token_that_does_not_exist_is_called_by_its_number(gpt2_tokenizer: ConversationTokenizer) -> None:
    assert token_text(gpt2_tokenizer, 70000) == "⟨token 70000⟩"


def test_every_token_of_a_family_has_a_visible_name(family: ConversationTokenizer) -> None:
    for index in range(min(len(family), 2000)):
        name = token_text(family, index)
        assert name or index in family.hf_tokenizer.all_special_ids
        assert not any(unicodedata.category(character)[0] in "CZ" for character in name)


def test_the_bytes_of_one_token_are_those_of_the_vocabulary(family: ConversationTokenizer) -> None:
    tokens = bytes_of_tokens(family.hf_tokenizer) or []
    for index, content in enumerate(tokens):
        assert content is None or token_bytes(family, index) == content


def test_a_latin_letter_of_sentencepiece_is_a_letter() -> None:
    hf_tokenizer = sentencepiece()
    tokenizer: Any = SimpleNamespace(hf_tokenizer=hf_tokenizer)  # no model is needed to show a token
    index = hf_tokenizer.convert_tokens_to_ids("é")
    assert token_bytes(tokenizer, index) == "é".encode()
    assert token_text(tokenizer, index) == "é"


@given(st.text())
def test_what_is_visible_has_no_controls_and_no_spaces(text: str) -> None:
    shown = visible(text)

    assert not any(unicodedata.category(character)[0] in "CZ" for character in shown)
    assert bool(shown) == bool(text)


def test_a_line_keeps_its_spaces() -> None:
    assert visible_line("two  words\x1b[31m\nnew") == "two  words⟨U+001B⟩[31m↵new"
