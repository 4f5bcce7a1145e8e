"""The exact bytes that each token of a vocabulary adds to a text.

Owns: which kinds of vocabularies have them, and which tokens are text at all. Knows no conversations.
"""

import json
from functools import cache
from typing import TYPE_CHECKING, Any

from convmodel.layout.text_encoder import hidden_tokens

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

SPACE_MARK = "▁"  # SentencePiece's space


def bytes_of_tokens(hf_tokenizer: "PreTrainedTokenizerBase") -> list[bytes | None] | None:
    """Returns the bytes of each token, None for those that are no text, such as control tokens.

    None as a whole if the vocabulary is neither byte-level nor SentencePiece's, so that its tokens have no exact text.

    Example:
        >>> from convmodel import ConversationTokenizer
        >>> tokens = bytes_of_tokens(ConversationTokenizer.from_pretrained("gpt2").hf_tokenizer)
        >>> tokens[345], tokens[50256]
        (b' you', None)
    """
    backend: Any = hf_tokenizer.backend_tokenizer
    state = json.loads(backend.to_str())
    is_bytes = is_byte_level(hf_tokenizer)
    if not is_bytes and not _has_space_marks(state["decoder"]):
        return None
    added = state["added_tokens"]
    hidden = {*hidden_tokens(added, hf_tokenizer.all_special_tokens, space_tokens=True)}
    plain = {token["content"] for token in added}
    tokens: list[bytes | None] = [None] * len(hf_tokenizer)
    for token, index in backend.get_vocab(with_added_tokens=True).items():
        if token not in hidden and index < len(tokens):
            is_plain = token in plain and not (is_bytes and len(token) == 1)
            tokens[index] = token.encode() if is_plain else _bytes(token, is_bytes)
    return tokens


def is_byte_level(hf_tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Returns whether the letters of a vocabulary's tokens are bytes, as GPT-2's are."""
    decoder: Any = hf_tokenizer.backend_tokenizer.decoder
    state = None if decoder is None else json.loads(decoder.__getstate__())
    return any(part["type"] == "ByteLevel" for part in _parts(state))


def _bytes(token: str, is_bytes: bool) -> bytes | None:
    if is_bytes:
        return byte_level_bytes(token)
    fallback = fallback_byte(token)
    return token.replace(SPACE_MARK, " ").encode() if fallback is None else fallback


def fallback_byte(token: str) -> bytes | None:
    """Returns the byte of a byte-fallback token like <0xE3>; None for other tokens."""
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes.fromhex(token[3:5])
    return None


def byte_level_bytes(token: str) -> bytes | None:
    """Returns the bytes of a token of a byte-level vocabulary; None if it has other letters."""
    alphabet = _byte_alphabet()
    return bytes(alphabet[letter] for letter in token) if all(letter in alphabet for letter in token) else None


def _parts(step: dict[str, Any] | None) -> list[dict[str, Any]]:
    if step is None:
        return []
    return [part for inner in step["decoders"] for part in _parts(inner)] if step["type"] == "Sequence" else [step]


def _has_space_marks(decoder: dict[str, Any] | None) -> bool:
    return any(
        part["type"] == "Metaspace" or (part["type"] == "Replace" and part["pattern"].get("String") == SPACE_MARK)
        for part in _parts(decoder)
    )


@cache
def _byte_alphabet() -> dict[str, int]:
    """Maps the letters of byte-level vocabularies to bytes.

    Bytes that are printable in Latin-1 are their own letter; the others, in order, are the letters from U+0100 on
    (Radford et al., "Language models are unsupervised multitask learners", 2019).
    """
    from tokenizers import pre_tokenizers

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    latin_1 = {letter: ord(letter) for letter in letters if ord(letter) < 256}
    remaining = (byte for byte in range(256) if byte not in latin_1.values())
    return latin_1 | dict(zip(letters[len(latin_1) :], remaining, strict=True))
