"""Text to token ids, such that no text becomes a control token.

Owns: making an encoder without added tokens from a Hugging Face tokenizer. Knows nothing about turns or layouts.
"""

import json
import secrets
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from convmodel.errors import ModelLoadError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

_BATCH = 128  # texts; measured: larger batches exceed the processor's cache, smaller ones cost calls


def text_encoder(hf_tokenizer: "PreTrainedTokenizerBase") -> "Tokenizer":
    """Returns an encoder with the same vocabulary but without added tokens.

    Hugging Face tokenizers split added tokens out of any text. The option against it covers special tokens only and
    is shared by all users of the tokenizer. Therefore this is a copy, without added tokens and without the
    post-processor that would add tokens around a text. The vocabulary entries of added tokens get random names,
    because a Unigram model, or a BPE model that looks up whole words, would still match them. Models with the same
    vocabulary share the copy, so it must not be changed.

    Raises:
        ModelLoadError: If the tokenizer is not backed by the `tokenizers` library.
    """
    from tokenizers import Tokenizer

    backend = getattr(hf_tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise ModelLoadError(
            f"{type(hf_tokenizer).__name__} is not backed by the tokenizers library, which convmodel needs to keep "
            "text and control tokens apart: convert it to a tokenizer.json"
        )
    return _make_encoder(backend.to_str(), frozenset(hf_tokenizer.all_special_tokens), hf_tokenizer.unk_token_id)


def encode_all(encoder: "Tokenizer", texts: Sequence[str]) -> list[list[int]]:
    """Returns the ids of each text."""
    batches = (texts[start : start + _BATCH] for start in range(0, len(texts), _BATCH))
    return [text.ids for batch in batches for text in encoder.encode_batch_fast([*batch], add_special_tokens=False)]


@lru_cache(maxsize=2)
def _make_encoder(backend: str, special_tokens: frozenset[str], unknown_id: int | None) -> "Tokenizer":
    """Creates the encoder from a serialized tokenizer; cached, because it takes half of the time of loading GPT-2."""
    from tokenizers import Tokenizer

    state = json.loads(backend)
    # Random, so that no text can contain it.
    nonce = secrets.token_hex(16)
    control = {token["content"] for token in state["added_tokens"]} | special_tokens
    hidden = {token: f"{nonce}-{number}" for number, token in enumerate(sorted(control)) if not is_text(token)}
    state.update(added_tokens=[], post_processor=None, truncation=None, padding=None)
    _rename(state["model"], hidden)
    if "unk_id" in state["model"] and unknown_id is not None:
        # transformers' T5 class assumes an unknown id of 2, which other vocabularies use for end-of-text.
        state["model"]["unk_id"] = unknown_id
    return Tokenizer.from_str(json.dumps(state))


def is_text(token: str) -> bool:
    """Returns whether a special or added token is ordinary text: a single character.

    A byte-level vocabulary has no other entry for it, so it must stay encodable. (A pad token of id 0 is `!` in GPT-2's
    vocabulary.)
    """
    return len(token) == 1


def _rename(model: dict[str, Any], hidden: dict[str, str]) -> None:
    """Renames vocabulary entries in a model's serialized state; ids stay the same."""
    vocabulary = model["vocab"]
    if isinstance(vocabulary, dict):
        model["vocab"] = {hidden.get(piece, piece): index for piece, index in vocabulary.items()}
    else:
        model["vocab"] = [[hidden.get(piece, piece), score] for piece, score in vocabulary]
    if model.get("unk_token") in hidden:
        model["unk_token"] = hidden[model["unk_token"]]
    if "merges" in model:
        model["merges"] = [merge for merge in model["merges"] if not _touches(merge, hidden)]


def _touches(merge: str | list[str], hidden: dict[str, str]) -> bool:
    left, right = merge.split(" ", 1) if isinstance(merge, str) else merge
    return left in hidden or right in hidden or left + right in hidden
