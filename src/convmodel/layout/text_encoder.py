"""Text to token ids, such that no text becomes a control token.

Owns: making an encoder without added tokens from a Hugging Face tokenizer. Knows nothing about turns or layouts.
"""

import json
import secrets
from collections.abc import Collection, Iterable, Sequence
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
    return encoder_and_bound(hf_tokenizer)[0]


def encoder_and_bound(
    hf_tokenizer: "PreTrainedTokenizerBase", *, word_prefix: bool = True, space_tokens: bool = False
) -> "tuple[Tokenizer, int | None]":
    """Returns the `text_encoder`, and how many characters a token has at most; None if that is uncertain.

    Without `word_prefix`, no space mark is put in front of a text, as in the middle of a longer one. With
    `space_tokens`, added tokens of white space only (Gemma's for two line ends) are text, too.
    """
    from tokenizers import Tokenizer

    backend = getattr(hf_tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise ModelLoadError(
            f"{type(hf_tokenizer).__name__} is not backed by the tokenizers library, which convmodel needs to keep "
            "text and control tokens apart: convert it to a tokenizer.json"
        )
    special_tokens = frozenset(hf_tokenizer.all_special_tokens)
    return _make_encoder(backend.to_str(), special_tokens, hf_tokenizer.unk_token_id, word_prefix, space_tokens)


def encode_all(encoder: "Tokenizer", texts: Sequence[str]) -> list[list[int]]:
    """Returns the ids of each text."""
    batches = (texts[start : start + _BATCH] for start in range(0, len(texts), _BATCH))
    return [text.ids for batch in batches for text in encoder.encode_batch_fast([*batch], add_special_tokens=False)]


def _most_characters(state: dict[str, Any]) -> int | None:
    """Returns how many characters of a text one token can stand for at most; None if that is not certain.

    It is certain for BPE in which every byte or character has a token, and whose steps before it drop no character.
    """
    vocabulary, steps = state["model"].get("vocab"), _flat(state["pre_tokenizer"], "pretokenizers")
    if state["model"]["type"] != "BPE" or not all(map(_keeps_all, steps)):
        return None
    has_bytes = any(step["type"] == "ByteLevel" for step in steps) and vocabulary.keys() >= _BYTES
    falls_back = state["model"].get("byte_fallback") and all(f"<0x{byte:02X}>" in vocabulary for byte in range(256))
    longest = max(map(len, vocabulary)) if has_bytes or falls_back else 0
    for step in _flat(state["normalizer"], "normalizers"):
        if step["type"] == "NFC":
            longest *= 4  # no character is composed of more
        elif not _lengthens(step):
            return None
    return longest or None


_BYTES = frozenset(map(chr, [*range(33, 127), *range(161, 173), *range(174, 324)]))
"""The characters for the 256 bytes in a byte-level vocabulary."""


def _flat(step: dict[str, Any] | None, name: str) -> list[dict[str, Any]]:
    """Returns the single steps of a normalizer or pre-tokenizer."""
    if step is None:
        return []
    return [part for inner in step[name] for part in _flat(inner, name)] if step["type"] == "Sequence" else [step]


def _keeps_all(step: dict[str, Any]) -> bool:
    """Returns whether a pre-tokenizer drops no character."""
    return step["type"] in ("ByteLevel", "Digits", "Metaspace") or (
        step["type"] in ("Split", "Punctuation") and step["behavior"] != "Removed"
    )


def _lengthens(step: dict[str, Any]) -> bool:
    """Returns whether a normalizer never makes a text shorter."""
    if step["type"] == "Replace":
        return len(step["content"]) >= len(step["pattern"].get("String", step["content"] + "x"))
    return step["type"] in ("Prepend", "ByteLevel")


def _without_prefix(step: dict[str, Any] | None, name: str) -> dict[str, Any] | None:
    """Returns a normalizer or pre-tokenizer that puts no space mark in front of a text."""
    changed: list[dict[str, Any]] = []
    for part in _flat(step, name):
        if part["type"] == "Metaspace":
            part = part | {"prepend_scheme": "never"}
        elif part["type"] == "ByteLevel" and part.get("add_prefix_space"):
            part = part | {"add_prefix_space": False}
        if part["type"] != "Prepend":
            changed.append(part)
    return {"type": "Sequence", name: changed} if changed else None


def marks_words(hf_tokenizer: "PreTrainedTokenizerBase") -> bool:
    """Returns whether a tokenizer puts a space mark in front of a text."""
    backend: Any = hf_tokenizer.backend_tokenizer
    for step, name in ((backend.normalizer, "normalizers"), (backend.pre_tokenizer, "pretokenizers")):
        state = None if step is None else json.loads(step.__getstate__())
        if _flat(state, name) != _flat(_without_prefix(state, name), name):
            return True
    return False


@lru_cache(maxsize=4)
def _make_encoder(
    backend: str, special_tokens: frozenset[str], unknown_id: int | None, word_prefix: bool, space_tokens: bool
) -> "tuple[Tokenizer, int | None]":
    """Creates the encoder from a serialized tokenizer; cached, because it takes half of the time of loading GPT-2."""
    from tokenizers import Tokenizer

    state = json.loads(backend)
    most_characters = _most_characters(state)
    # Random, so that no text can contain it.
    nonce = secrets.token_hex(16)
    kept = [token for token in state["added_tokens"] if space_tokens and _is_space(token)]
    hidden = {
        token: f"{nonce}-{number}"
        for number, token in enumerate(hidden_tokens(state["added_tokens"], special_tokens, space_tokens=space_tokens))
    }
    state.update(added_tokens=kept, post_processor=None, truncation=None, padding=None)
    _rename(state["model"], hidden)
    if not word_prefix:
        state["normalizer"] = _without_prefix(state["normalizer"], "normalizers")
        state["pre_tokenizer"] = _without_prefix(state["pre_tokenizer"], "pretokenizers")
    if "unk_id" in state["model"] and unknown_id is not None:
        # transformers' T5 class assumes an unknown id of 2, which other vocabularies use for end-of-text.
        state["model"]["unk_id"] = unknown_id
    return Tokenizer.from_str(json.dumps(state)), most_characters


def hidden_tokens(
    added_tokens: Collection[dict[str, Any]], special_tokens: Iterable[str], *, space_tokens: bool
) -> list[str]:
    """Returns the added and special tokens that no text is encoded as; `space_tokens` as for `encoder_and_bound`.

    `added_tokens` are a serialized tokenizer's.
    """
    added = {token["content"] for token in added_tokens if not (space_tokens and _is_space(token))}
    spaces = {token["content"] for token in added_tokens} - added
    return sorted(token for token in (added | set(special_tokens)) - spaces if not is_text(token))


def _is_space(token: dict[str, Any]) -> bool:
    return not token["special"] and token["content"].isspace()


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
