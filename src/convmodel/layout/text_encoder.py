"""Text to token ids and nothing else: no text can become a control token.

Owns: making, from a Hugging Face tokenizer, an encoder that has no added tokens. Knows nothing of turns or layouts.
"""

import json
import secrets
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from convmodel.errors import ModelLoadError

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase


def text_encoder(hf_tokenizer: "PreTrainedTokenizerBase") -> "Tokenizer":
    """Makes an encoder of the same vocabulary in which added tokens do not exist.

    Hugging Face tokenizers split added tokens out of any text; the switch against it covers special tokens only and
    is state shared by all users of the tokenizer. So this is a copy, without added tokens and without the tokens that
    a post-processor would put around a text. Models of the same vocabulary share it, so it must not be changed. Its
    control tokens get names that no text can spell, because a Unigram model, or a BPE model that looks whole words
    up, would find them there too.

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


@lru_cache(maxsize=2)
def _make_encoder(backend: str, special_tokens: frozenset[str], unknown_id: int | None) -> "Tokenizer":
    """Makes the encoder from a serialised tokenizer; kept, since it takes half of the time of loading GPT-2."""
    from tokenizers import Tokenizer

    state = json.loads(backend)
    # Random, so that nobody can write a text that spells it.
    nonce = secrets.token_hex(16)
    control = {token["content"] for token in state["added_tokens"]} | special_tokens
    hidden = {token: f"{nonce}-{number}" for number, token in enumerate(sorted(control)) if not is_text(token)}
    state.update(added_tokens=[], post_processor=None, truncation=None, padding=None)
    _rename(state["model"], hidden)
    if "unk_id" in state["model"] and unknown_id is not None:
        # transformers' T5 class counts on an unknown id of 2, which in other vocabularies ends the text.
        state["model"]["unk_id"] = unknown_id
    return Tokenizer.from_str(json.dumps(state))


def is_text(token: str) -> bool:
    """Tells whether a special or added token is ordinary text all the same: a single character.

    Nothing else in a byte-level vocabulary can spell it; hidden, it would vanish from every text. (A pad token of id 0
    is `!` in GPT-2's vocabulary.)
    """
    return len(token) == 1


def _rename(model: dict[str, Any], hidden: dict[str, str]) -> None:
    """Renames vocabulary entries in a model's serialised state; their ids stay."""
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
