"""A tokenizer's vocabulary in llguidance's form.

Owns: the conversion, which takes a second for a large vocabulary and is done once per tokenizer, and the split of bytes
into tokens. Control tokens are no part of it: no grammar can make them legal.
"""

import threading
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

import torch

from convmodel.errors import ConfigError
from convmodel.generation.constraints.matching import make_tokenizer
from convmodel.layout.text_encoder import encoder_and_bound
from convmodel.layout.token_bytes import bytes_of_tokens
from convmodel.layout.tokenizer import ConversationTokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_LONGEST = 16  # bytes of the tokens that `split` uses


class Vocabulary:
    """The tokens that may be legal, by their bytes.

    Attributes:
        tokenizer: llguidance's form; its end token, which is in no text, is `end_id`.
        end_id: The id that stands for the end of a response.
        byte_ids: The token of each of the 256 bytes, or None.
        is_text: Which ids are text, (vocabulary,).
        pieces: The bytes of each token; empty for those that are not text.
    """

    def __init__(
        self, tokens: Iterable[bytes | None], control_ids: Iterable[int], encoder: "Tokenizer | None" = None
    ) -> None:
        """Converts the bytes of each token.

        Args:
            tokens: The bytes; None for a token that is not text.
            control_ids: Further tokens that are not text; the first stands for the end of a response.
            encoder: Splits a text as the model knows it.
        """
        self.end_id, *_ = controls = [*control_ids]
        self.pieces = [b"" if index in controls else token or b"" for index, token in enumerate(tokens)]
        self.is_text = torch.tensor([bool(piece) for piece in self.pieces])
        self._splitter = _Splitter(self.pieces, encoder)
        self.byte_ids = tuple(self._splitter.ids.get(bytes([byte])) for byte in range(256))
        self.tokenizer: Any = make_tokenizer(self.pieces, self.end_id, self._splitter.encode)

    def split(self, content: bytes) -> list[int] | None:
        """Returns tokens that together have these bytes, the longest ones first; None if there are none."""
        return self._splitter.split(content)


class _Splitter:
    """Splits bytes into tokens.

    llguidance's tokenizer refers to it, and Python's garbage collector does not see that. So it has no reference to the
    vocabulary, which refers to that tokenizer: neither would ever be freed.
    """

    def __init__(self, pieces: Sequence[bytes], encoder: "Tokenizer | None") -> None:
        self._pieces, self._encoder = pieces, encoder
        self.ids: dict[bytes, int] = {}
        for index, piece in enumerate(pieces):
            if 0 < len(piece) <= _LONGEST:
                self.ids.setdefault(piece, index)

    def encode(self, content: bytes) -> list[int] | None:
        """Returns the tokens of some bytes, as the model knows them if possible; None if there are none."""
        if self._encoder is not None:
            with suppress(UnicodeDecodeError):
                ids = self._encoder.encode(content.decode(), add_special_tokens=False).ids
                if b"".join(self._pieces[index] for index in ids) == content:
                    return ids
        return self.split(content)

    def split(self, content: bytes) -> list[int] | None:
        """Returns tokens that together have these bytes, the longest ones first; None if there are none."""
        ids, start = [], 0
        while start < len(content):
            for end in range(min(len(content), start + _LONGEST), start, -1):
                if (index := self.ids.get(content[start:end])) is not None:
                    ids.append(index)
                    start = end
                    break
            else:
                return None
        return ids


_VOCABULARIES: "WeakKeyDictionary[ConversationTokenizer, Vocabulary]" = WeakKeyDictionary()
_lock = threading.Lock()


def vocabulary_of(tokenizer: ConversationTokenizer) -> Vocabulary:
    """Returns the vocabulary of a tokenizer, converted once.

    Raises:
        ConfigError: If its tokens have no exact text.
    """
    with _lock:
        if tokenizer not in _VOCABULARIES:
            tokens = bytes_of_tokens(tokenizer.hf_tokenizer)
            if tokens is None:
                raise ConfigError(
                    "json_schema, regex and grammar need a byte-level or SentencePiece vocabulary, which this is not: "
                    "leave them out"
                )
            encoder, _ = encoder_and_bound(tokenizer.hf_tokenizer, word_prefix=False)
            _VOCABULARIES[tokenizer] = Vocabulary(tokens, tokenizer.stop_token_ids, encoder)
        return _VOCABULARIES[tokenizer]
