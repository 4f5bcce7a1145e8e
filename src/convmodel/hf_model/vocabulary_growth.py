"""Adding entries to the vocabulary of a pretrained model, so that another language takes fewer tokens.

Owns: choosing the entries, and initializing their rows. Existing entries, rows and merges stay unchanged.
"""

import copy
import json
import sys
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from convmodel.errors import ConfigError
from convmodel.hf_model.embedding import grow_embedding, set_row
from convmodel.hf_model.quantization import require_unquantized
from convmodel.layout.text_encoder import text_encoder
from convmodel.layout.tokenizer import ConversationTokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

FIRST_SYMBOL = 0xF0000
"""For training, existing entries are mapped to characters of Unicode's two private planes, from here on."""

SYMBOLS = 2 * 65534

MIN_FREQUENCY = 2
"""How often a new entry must occur in the text."""


def grow_vocabulary(
    hf_model: "PreTrainedModel", tokenizer: ConversationTokenizer, texts: Iterable[str], entries: int
) -> ConversationTokenizer:
    """Continues the BPE training of a model's vocabulary on other text.

    New merges come after all existing ones, so text without new entries is encoded as before. The row of a new entry
    is initialized as the mean of the rows of the tokens that it replaces (Gee et al., 2022, Fast Vocabulary
    Transfer, https://aclanthology.org/2022.emnlp-industry.41).

    The embedding is resized in place; the tokenizer stays unchanged, and one with the new entries is returned. These
    are fewer than `entries` if no more pairs occur twice, or a merge results in an existing entry.
    """
    if entries < 1:
        raise ConfigError(f"entries is {entries}: it must be at least 1")
    require_unquantized(hf_model, "given more entries")
    encoder = text_encoder(tokenizer.hf_tokenizer)
    require_words_of_bpe(encoder)
    merges = learn_merges(encoder, texts, entries)
    hf_tokenizer, new = with_merges(tokenizer.hf_tokenizer, merges)
    grow_embedding(hf_model, max(new, default=0) + 1)
    for index, pieces in new.items():  # in training order: pieces come before their merges
        set_row(hf_model, index, pieces)
    return ConversationTokenizer(hf_tokenizer, layout=tokenizer.layout)


def require_words_of_bpe(encoder: "Tokenizer") -> None:
    """Raises a `ConfigError` unless a vocabulary is a byte-level BPE."""
    state = json.loads(encoder.to_str())
    kind, model = state["model"]["type"], state["model"]
    others = [model.get(name) for name in ("continuing_subword_prefix", "end_of_word_suffix", "byte_fallback")]
    byte_level = '"ByteLevel"' in json.dumps([state["normalizer"], state["pre_tokenizer"]])
    if kind != "BPE" or any(others) or encoder.pre_tokenizer is None or not byte_level:
        raise ConfigError(
            f"the vocabulary is {'a BPE of another kind' if kind == 'BPE' else kind}: only a byte-level BPE grows; "
            "leave the option out, or train from scratch"
        )


def learn_merges(encoder: "Tokenizer", texts: Iterable[str], entries: int) -> list[tuple[str, str]]:
    """Trains BPE over existing entries instead of bytes; returns pairs of entries, the most frequent first."""
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    texts_in_words, pieces_of = _words(encoder, texts)
    vocabulary = encoder.get_vocab()
    used = sorted({piece for pieces in pieces_of.values() for piece in pieces}, key=vocabulary.__getitem__)
    symbols = {piece: _symbol(number) for number, piece in enumerate(used)}
    spellings = {word: "".join(symbols[piece] for piece in pieces) for word, pieces in pieces_of.items()}
    spelled = {symbol: piece for piece, symbol in symbols.items()}
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer: Any = trainers.BpeTrainer(
        vocab_size=len(symbols) + entries, min_frequency=MIN_FREQUENCY, show_progress=False
    )
    learner.train_from_iterator((" ".join(map(spellings.__getitem__, words)) for words in texts_in_words), trainer)

    def spell(joined: str) -> str:
        return "".join(spelled[symbol] for symbol in joined)

    merges = json.loads(learner.to_str())["model"]["merges"]
    return [(spell(first), spell(second)) for first, second in merges]


def _words(encoder: "Tokenizer", texts: Iterable[str]) -> tuple[list[list[str]], dict[str, list[str]]]:
    """Splits texts into words, which merges never cross, and each distinct word into its pieces."""
    model, normalizer, pre_tokenizer = encoder.model, encoder.normalizer, encoder.pre_tokenizer
    texts_in_words: list[list[str]] = []
    pieces: dict[str, list[str]] = {}
    for text in texts:
        split = pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(text) if normalizer else text)
        texts_in_words.append([sys.intern(word) for word, _ in split])
        for word in texts_in_words[-1]:
            if word not in pieces:
                pieces[word] = [token.value for token in model.tokenize(word)]
    return texts_in_words, pieces


def _symbol(number: int) -> str:
    if number >= SYMBOLS:
        raise ConfigError(f"the text has more than {SYMBOLS:,} different pieces: give less of it to --grow-vocabulary")
    # The last two of each plane's 65,536 code points are not characters.
    plane, place = divmod(number, SYMBOLS // 2)
    return chr(FIRST_SYMBOL + plane * 0x10000 + place)


def with_merges(
    hf_tokenizer: "PreTrainedTokenizerBase", merges: list[tuple[str, str]]
) -> "tuple[PreTrainedTokenizerBase, dict[int, tuple[int, int]]]":
    """Returns a copy of a tokenizer with more merges, and the two parts of each new entry."""
    from tokenizers import Tokenizer

    grown: Any = copy.deepcopy(hf_tokenizer)
    state = json.loads(grown.backend_tokenizer.to_str())
    vocabulary = state["model"]["vocab"]
    # Added tokens past the vocabulary become part of it, because it may have no gaps.
    vocabulary.update({token["content"]: token["id"] for token in state["added_tokens"]})
    new: dict[int, tuple[int, int]] = {}
    free = max(vocabulary.values()) + 1  # not the number of entries, because there may be gaps
    for first, second in merges:
        if first + second not in vocabulary:
            vocabulary[first + second] = free
            new[free] = (vocabulary[first], vocabulary[second])
            free += 1
        state["model"]["merges"].append([first, second])
    grown._tokenizer = Tokenizer.from_str(json.dumps(state))
    return grown, new
