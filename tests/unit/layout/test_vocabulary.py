"""New vocabularies: over bytes, of either kind, of the size asked for."""

import pytest

from convmodel.errors import ConfigError
from convmodel.layout.tokenizer import ConversationTokenizer
from convmodel.layout.vocabulary import END_OF_TEXT, KINDS, SMALLEST, train_vocabulary

TEXTS = ["low lower lowest", "new newer newest", "slow slower slowest", "the widest window"] * 4
OTHERS = ["Zoë 🙂\n\tx", "おはよう", "\x00\x7f", "<sep>", "<|endoftext|>", "e\u0301"]


@pytest.mark.parametrize("kind", KINDS)
def test_any_text_of_any_script_comes_back_and_none_becomes_a_control_token(kind: str) -> None:
    tokenizer = ConversationTokenizer(train_vocabulary(TEXTS, 300, kind))
    control = {tokenizer.sep_token_id, tokenizer.hf_tokenizer.eos_token_id}

    for text in OTHERS:
        indices = tokenizer.encode(text)
        assert tokenizer.decode(indices) == text
        assert not control & set(indices)


@pytest.mark.parametrize("kind", KINDS)
def test_the_pieces_are_learned_from_the_text(kind: str) -> None:
    tokenizer = ConversationTokenizer(train_vocabulary(TEXTS, 300, kind))

    assert len(tokenizer) <= 300
    assert len(tokenizer.encode("newest lowest")) <= 7  # of 13 bytes
    assert len(tokenizer.encode("zyx")) == 3


def test_bpe_joins_the_most_frequent_pairs_first() -> None:
    """In `abab abab ac`, `a`+`b` stands four times; then come the two halves of the words, each twice."""
    vocabulary = train_vocabulary(["abab abab ac"], SMALLEST + 2).get_vocab()

    assert vocabulary["ab"] == SMALLEST
    assert vocabulary["abab"] == SMALLEST + 1


def test_bpe_learns_the_same_from_the_same() -> None:
    assert (
        train_vocabulary(TEXTS, 290).backend_tokenizer.to_str()
        == train_vocabulary(iter(TEXTS), 290).backend_tokenizer.to_str()
    )


@pytest.mark.parametrize("kind", KINDS)
def test_the_smallest_has_the_bytes_and_two_control_tokens(kind: str) -> None:
    tokenizer = train_vocabulary(["ab"], SMALLEST + (kind == "unigram"), kind)

    assert len(tokenizer) >= SMALLEST
    assert {tokenizer.eos_token, tokenizer.sep_token} == {END_OF_TEXT, "<sep>"}


def test_a_text_too_short_for_the_size_makes_a_smaller_vocabulary() -> None:
    assert len(train_vocabulary(["ab ab"], 4000)) == SMALLEST + 2  # ab, and it with its blank


@pytest.mark.parametrize(
    ("size", "kind", "message"),
    [
        (257, "bpe", "vocab_size is 257: the bytes and the control tokens alone are 258"),
        (300, "wordpiece", "the kind of the vocabulary is 'wordpiece': it must be bpe or unigram"),
    ],
)
def test_what_cannot_be_is_said(size: int, kind: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        train_vocabulary(TEXTS, size, kind)
