"""The text of turns to token ids and back, as a layout has it.

Owns: encoding without control tokens and decoding without special ones. Knows no positions.
"""

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from convmodel.layout.arranging import Arrangement
from convmodel.layout.config import LayoutConfig
from convmodel.layout.markers import ASSISTANT
from convmodel.layout.text_encoder import encode_all, encoder_and_bound, is_text

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
"""Decoding's replacement for bytes that are not a whole character."""


class TextCodec:
    """Encodes and decodes the text of turns.

    Attributes:
        most_characters: How many characters of a text one token can stand for at most; None if that is uncertain.
    """

    def __init__(
        self, hf_tokenizer: "PreTrainedTokenizerBase", layout: LayoutConfig, stop_token_ids: Iterable[int]
    ) -> None:
        """Makes an encoder without control tokens; decoding leaves out special tokens and `stop_token_ids`."""
        self._hf_tokenizer = hf_tokenizer
        self._leads = layout.leads
        self._encoder, self.most_characters = encoder_and_bound(hf_tokenizer, **layout.encoding)
        # The end-of-text token may no longer be one of the tokenizer's special tokens: see its `save_pretrained`.
        special = {*hf_tokenizer.all_special_ids, *stop_token_ids}
        tokens = {index: str(hf_tokenizer.convert_ids_to_tokens(index)) for index in special}
        self._control_ids = frozenset(index for index, token in tokens.items() if not is_text(token))

    def encode(self, text: str) -> list[int]:
        """Encodes the text of a response."""
        # `Tokenizer.encode` would keep other threads from running.
        return encode_all(self._encoder, [self._leads.get(ASSISTANT, "") + text])[0]

    def encode_turns(self, arranged: Iterable[Arrangement]) -> list[list[int]]:
        """Encodes all turns of some conversations, in order."""
        texts = [
            self._leads.get(each.roles[speaker], "") + turn if self._leads else turn
            for each in arranged
            for speaker, turn in zip(each.conversation.turn_speakers, each.conversation.turns, strict=True)
        ]
        return encode_all(self._encoder, texts)

    def decode(self, ids: Sequence[int]) -> str:
        """Decodes tokens to text, without special tokens."""
        text = [index for index in ids if index not in self._control_ids]
        return str(self._hf_tokenizer.decode(text, clean_up_tokenization_spaces=False))

    def decoded_lead(self, role: str) -> str:
        """Returns what a decoded response of a role begins with and what is not part of its text; mostly nothing."""
        lead = self._leads.get(role, "")
        # SentencePiece's decoders drop the space themselves.
        return lead if lead and self.decode(encode_all(self._encoder, [f"{lead}a"])[0]) == f"{lead}a" else ""

    def count_bytes(self, ids: Sequence[int]) -> int:
        """Returns how many UTF-8 bytes the text of tokens has, without a half character at its end."""
        return len(self.decode(ids).rstrip(REPLACEMENT).encode())
