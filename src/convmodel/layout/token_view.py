"""Conversations as the model sees them: token by token, window by window.

Owns: how each token is displayed, so that none of its characters is invisible. Knows no colours and no screen.
"""

import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

from convmodel.conversation import Conversation
from convmodel.layout.sequence import IGNORED, LossOn
from convmodel.layout.tokenizer import REPLACEMENT, ConversationTokenizer

_MARKS = {" ": "·", "\n": "↵", "\r": "␍", "\t": "⇥"}
_SPACE_MARK = "▁"  # SentencePiece's space


@dataclass(frozen=True, slots=True)
class ShownToken:
    """One position of a window, for display."""

    text: str  # with spaces, line ends and lone bytes made visible
    id: int
    speaker: str  # of its turn; for a separator, of the turn that it opens
    supervised: bool
    is_separator: bool


def token_view(
    tokenizer: ConversationTokenizer, conversation: Conversation, *, max_length: int, loss_on: LossOn
) -> list[list[ShownToken]]:
    """Returns the tokens of each window of a conversation; no window if no turn is supervised.

    Example:
        >>> tokenizer = ConversationTokenizer.from_pretrained("gpt2")
        >>> conversation = Conversation(["Hello", "How are"])
        >>> [window] = token_view(tokenizer, conversation, max_length=64, loss_on="responses")
        >>> [(token.text, token.speaker, token.supervised) for token in window][3:]
        [('How', 'assistant', True), ('·are', 'assistant', True), ('<sep>', 'user', True)]
    """
    names = list(dict.fromkeys((*conversation.speaker_names, conversation.next_speaker())))
    windows = tokenizer.windows(conversation, max_length=max_length, loss_on=loss_on)
    return [
        [
            ShownToken(
                tokenizer.sep_token if index == tokenizer.sep_token_id else token_text(tokenizer, index),
                index,
                names[kind],
                label != IGNORED,
                index == tokenizer.sep_token_id,
            )
            for index, kind, label in zip(window.input_ids, window.types, window.labels, strict=True)
        ]
        for window in windows
    ]


def token_text(tokenizer: ConversationTokenizer, index: int) -> str:
    """Returns one token for display: its text made visible, or its bytes if it is only a part of a character.

    Example:
        >>> tokenizer = ConversationTokenizer.from_pretrained("gpt2")
        >>> [token_text(tokenizer, index) for index in tokenizer.encode(" you 🦜")]
        ['·you', '·⟨F09F⟩', '⟨A6⟩', '⟨9C⟩']
    """
    token = tokenizer.hf_tokenizer.convert_ids_to_tokens(index)
    if token is None:
        return f"⟨token {index}⟩"
    content = _bytes_of(str(token))
    text = str(tokenizer.hf_tokenizer.decode([index], clean_up_tokenization_spaces=False))
    if content is not None and REPLACEMENT in text:
        whole = content.decode("utf-8", "backslashreplace")
        if "\\x" not in whole:
            return visible(whole)
        start = next(i for i, byte in enumerate(content) if byte >= 0x80)  # leading ASCII is text
        return visible(content[:start].decode()) + f"⟨{content[start:].hex().upper()}⟩"
    if str(token).startswith(_SPACE_MARK):  # decoding it alone would drop the space
        return visible(str(token).replace(_SPACE_MARK, " "))
    return visible(text or str(token))


def token_bytes(tokenizer: ConversationTokenizer, index: int) -> bytes:
    """Returns the bytes of one token's text."""
    token = str(tokenizer.hf_tokenizer.convert_ids_to_tokens(index))
    content = _bytes_of(token)
    return content if content is not None else token.replace(_SPACE_MARK, " ").encode()


def visible(text: str) -> str:
    r"""Replaces all characters that are invisible or that reorder the text around them.

    Example:
        >>> visible("Hi\tyou\n\u202e")
        'Hi⇥you↵⟨U+202E⟩'
    """
    return "".join(_MARKS.get(character) or _shown(character) for character in text)


def visible_line(text: str) -> str:
    """Replaces the same characters as `visible`, except spaces."""
    return " ".join(visible(word) for word in text.split(" "))


def _shown(character: str) -> str:
    """Returns a printable character, or the code point of any other: controls, separators, surrogates, private use."""
    if unicodedata.category(character)[0] not in "CZ":
        return character
    return f"⟨U+{ord(character):04X}⟩"


def _bytes_of(token: str) -> bytes | None:
    """Returns the bytes of a token of a byte-level vocabulary, or of a byte-fallback token like <0xE3>; else None."""
    if len(token) == 6 and token.startswith("<0x") and token.endswith(">"):
        return bytes.fromhex(token[3:5])
    alphabet = _byte_alphabet()
    return bytes(alphabet[letter] for letter in token) if all(letter in alphabet for letter in token) else None


@cache
def _byte_alphabet() -> dict[str, int]:
    """Maps the letters of byte-level vocabularies to bytes.

    Bytes that are printable in Latin-1 are their own letter; the others, in order, are the letters from U+0100 on
    (Radford et al., "Language models are unsupervised multitask learners", 2019).
    """
    from tokenizers import pre_tokenizers

    letters: Sequence[Any] = sorted(pre_tokenizers.ByteLevel.alphabet())
    latin_1 = {letter: ord(letter) for letter in letters if ord(letter) < 256}
    remaining = (byte for byte in range(256) if byte not in latin_1.values())
    return latin_1 | dict(zip(letters[len(latin_1) :], remaining, strict=True))
