"""A tokenizer as the vocabulary of a GGUF file.

Owns: the entries with their kinds, merges and scores, the names of control tokens, and refusing a tokenizer that
llama.cpp has no counterpart of.
"""

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from convmodel.errors import ConfigError
from convmodel.export.pre_tokenizers import find_pre_tokenizer
from convmodel.layout.text_encoder import encoder_and_bound, hidden_tokens
from convmodel.layout.tokenizer import ConversationTokenizer

if TYPE_CHECKING:
    from gguf import GGUFWriter

_SPACE_MARK = "\N{LOWER ONE EIGHTH BLOCK}"


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The entries of a vocabulary as llama.cpp reads them.

    Attributes:
        model: `gpt2` for byte-level BPE, `llama` for BPE with space marks, as SentencePiece trains it.
        pre_tokenizer: How text is split before BPE; None where there is one way only.
        tokens: The text of each entry, by id.
        kinds: The kind of each entry, a `gguf.TokenType`.
        merges: The pairs that byte-level BPE joins, in order.
        scores: The priority of each entry, the higher the sooner, where there are no merges.
        names: The new names of control tokens, by id.
        marks_first_word: Whether a space mark is put in front of a text.
        normalizes: Whether the tokenizer changes text before encoding it (NFC), which llama.cpp does not.
    """

    model: str
    pre_tokenizer: str | None
    tokens: tuple[str, ...]
    kinds: tuple[int, ...]
    merges: tuple[str, ...]
    scores: tuple[float, ...]
    names: Mapping[int, str]
    marks_first_word: bool
    normalizes: bool

    def write(self, writer: "GGUFWriter") -> None:
        """Writes the entries."""
        writer.add_tokenizer_model(self.model)
        if self.pre_tokenizer:
            writer.add_tokenizer_pre(self.pre_tokenizer)
        writer.add_token_list(self.tokens)
        writer.add_token_types(self.kinds)
        if self.merges:
            writer.add_token_merges(self.merges)
        if self.scores:
            writer.add_token_scores(self.scores)
        writer.add_add_space_prefix(self.marks_first_word)


def vocabulary_of(tokenizer: ConversationTokenizer, entries: int) -> Vocabulary:
    """Returns a tokenizer's vocabulary with as many entries as the model's embedding has rows.

    Control tokens get names that nobody can type, since llama.cpp reads a token's name as the token wherever it stands
    in a prompt, in the text of a turn, too.

    Raises:
        ConfigError: If llama.cpp has no such tokenizer.
    """
    hf_tokenizer = tokenizer.hf_tokenizer
    state: dict[str, Any] = json.loads(hf_tokenizer.backend_tokenizer.to_str())
    model = state["model"]
    if model["type"] != "BPE" or model.get("continuing_subword_prefix") or model.get("end_of_word_suffix"):
        raise ConfigError(
            f"this model cannot be exported to GGUF: its tokenizer is a {model['type']} model, and llama.cpp's "
            "counterpart is only known for BPE; train one with `convmodel tokenizer train --kind bpe`"
        )
    names = _new_names(tokenizer, state)
    is_byte_level = "ByteLevel" in json.dumps(state["pre_tokenizer"])
    tokens, kinds = _entries(state, names, entries, is_byte_level=is_byte_level)
    encoder, _ = encoder_and_bound(hf_tokenizer, **tokenizer.layout.encoding)
    if is_byte_level:
        merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in model["merges"]]
        scores: Sequence[float] = ()
        pre_tokenizer = find_pre_tokenizer(encoder, model)
    else:
        merges, scores, pre_tokenizer = [], _scores(model, tokens), None
    return Vocabulary(
        "gpt2" if is_byte_level else "llama",
        pre_tokenizer,
        tuple(tokens),
        tuple(kinds),
        tuple(merges),
        tuple(scores),
        names,
        marks_first_word=not is_byte_level and _marks(encoder),
        normalizes="NFC" in json.dumps(state["normalizer"]),
    )


def _new_names(tokenizer: ConversationTokenizer, state: dict[str, Any]) -> dict[int, str]:
    """Gives every token that no text is encoded as a name that nobody can guess."""
    nonce = secrets.token_hex(8)
    special = tokenizer.hf_tokenizer.all_special_tokens
    space_tokens = bool(tokenizer.layout.encoding.get("space_tokens"))
    hidden = hidden_tokens(state["added_tokens"], special, space_tokens=space_tokens)
    ids = {token: tokenizer.hf_tokenizer.convert_tokens_to_ids(token) for token in hidden}
    return {index: f"{token}-{nonce}" for token, index in ids.items() if index is not None}


def _entries(
    state: dict[str, Any], names: Mapping[int, str], entries: int, *, is_byte_level: bool
) -> tuple[list[str], list[int]]:
    """Returns the text and the kind of each entry; ids without one get a name of their own and are never used."""
    from gguf import TokenType

    vocabulary: dict[str, int] = dict(state["model"]["vocab"])
    added = {token["id"]: token["content"] for token in state["added_tokens"]}
    texts = {index: token for token, index in vocabulary.items()} | added
    tokens, kinds = [], []
    for index in range(entries):
        text, kind = texts.get(index, f"[unused{index}]"), TokenType.NORMAL
        if index in names:
            text, kind = names[index], TokenType.CONTROL
        elif index not in texts:
            kind = TokenType.UNUSED
        elif index in added and len(text) > 1:
            kind = TokenType.USER_DEFINED
        elif not is_byte_level and _is_byte(text):
            kind = TokenType.BYTE
        tokens.append(text)
        kinds.append(int(kind))
    return tokens, kinds


def _is_byte(token: str) -> bool:
    return len(token) == 6 and token.startswith("<0x") and token.endswith(">")


def _scores(model: dict[str, Any], tokens: Sequence[str]) -> list[float]:
    """Returns a score for each entry: llama.cpp joins first what has the highest, instead of what is merged first."""
    ranks: dict[str, int] = {}
    for rank, merge in enumerate(model["merges"]):
        ranks.setdefault("".join(merge.split(" ", 1) if isinstance(merge, str) else merge), rank)
    return [-float(ranks[token]) if token in ranks else -float(len(model["merges"])) for token in tokens]


def _marks(encoder: Any) -> bool:
    """Returns whether an encoder puts a space mark in front of a text."""
    return bool(encoder.encode("a", add_special_tokens=False).tokens[0].startswith(_SPACE_MARK))
