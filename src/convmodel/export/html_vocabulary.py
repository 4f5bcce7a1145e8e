"""A byte-level vocabulary as an HTML page carries it.

Owns: which tokenizers the page can reproduce, and the classes of characters that split a text into words.
`page/tokenizer.js` encodes and decodes.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from tokenizers import Regex, pre_tokenizers

from convmodel.errors import ConfigError
from convmodel.layout.text_encoder import encoder_and_bound, is_text
from convmodel.layout.tokenizer import ConversationTokenizer

_CLASSES = {"letters": r"\p{L}", "numbers": r"\p{N}", "spaces": r"\s"}

_BPE: dict[str, tuple[Any, ...]] = {
    "type": ("BPE",),
    "dropout": (None, 0.0),
    "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": (None, ""),
    "ignore_merges": (None, False),
}
"""The values of a `tokenizer.json`'s model that the page reproduces."""

_WORDS = {"type": "ByteLevel", "add_prefix_space": False, "use_regex": True}
"""The pre-tokenizer that the page reproduces, GPT-2's."""


@dataclass(frozen=True, slots=True)
class PageVocabulary:
    """A byte-level vocabulary.

    Attributes:
        tokens: The text of each id in the characters that stand for bytes; None for one that is never text.
        merges: The ids of the two parts of each merge, one after the other.
    """

    tokens: list[str | None]
    merges: list[int]


def read_vocabulary(tokenizer: ConversationTokenizer) -> PageVocabulary:
    """Returns a tokenizer's vocabulary.

    Raises:
        ConfigError: If it is not a byte-level BPE, or splits texts in another way than GPT-2.
    """
    hf_tokenizer, encoding = tokenizer.hf_tokenizer, tokenizer.layout.encoding
    encoder, most_characters = encoder_and_bound(hf_tokenizer, **encoding)  # None if a byte has no token
    state, decoder = json.loads(encoder.to_str()), json.loads(hf_tokenizer.backend_tokenizer.to_str())["decoder"]
    before = state["pre_tokenizer"] or {}
    steps = before.get("pretokenizers", [before])
    is_gpt2 = len(steps) == 1 and steps[0].items() >= _WORDS.items() and (decoder or {}).get("type") == "ByteLevel"
    is_plain = all(state["model"].get(name) in values for name, values in _BPE.items())
    # A byte without a token is left out of a text, unless there is an unknown token.
    is_known = most_characters is not None or state["model"].get("unk_token") is None
    if not (is_gpt2 and is_plain and is_known) or state["normalizer"] or state["added_tokens"]:
        raise ConfigError(
            "a page needs a byte-level BPE vocabulary that splits texts as GPT-2's does, which this model's is not: "
            "export another format"
        )
    vocabulary = state["model"]["vocab"]
    merges = (merge.split(" ", 1) if isinstance(merge, str) else merge for merge in state["model"]["merges"])
    control = {*hf_tokenizer.all_special_ids, *tokenizer.stop_token_ids}
    tokens = hf_tokenizer.convert_ids_to_tokens(range(len(tokenizer)))
    return PageVocabulary(
        [None if token is None or (i in control and not is_text(token)) else token for i, token in enumerate(tokens)],
        [vocabulary[part] for merge in merges for part in merge],
    )


@cache
def character_classes() -> dict[str, str]:
    """Returns the ranges of letters, numbers and spaces as the tokenizers library has them, in hexadecimal.

    A browser's own classes are those of another version of Unicode, and its white space is not Unicode's.

    Example:
        >>> character_classes()["spaces"][:12]
        '9-d,20-20,85'
    """
    # The planes from 4 on have no letters. Surrogates are not characters.
    characters = "".join(map(chr, (*range(0xD800), *range(0xE000, 0x40000))))
    return {name: ",".join(_ranges(pattern, characters)) for name, pattern in _CLASSES.items()}


def _ranges(pattern: str, characters: str) -> Iterator[str]:
    """Yields the ranges of the characters that a pattern matches."""
    pieces = pre_tokenizers.Split(Regex(f"{pattern}+"), "removed").pre_tokenize_str(characters)
    end = 0
    for _, (begin, following) in [*pieces, ("", (len(characters),) * 2)]:
        if begin > end:
            yield f"{ord(characters[end]):x}-{ord(characters[begin - 1]):x}"
        end = following
