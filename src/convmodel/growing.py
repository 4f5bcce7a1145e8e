"""More entries for the vocabulary of a trained model, so that another language takes fewer tokens.

Owns: which entries, and the values their rows begin with. The old entries, their rows and their merges stay.
"""

import copy
import json
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch

from convmodel.embedding import grow_embedding
from convmodel.errors import ConfigError
from convmodel.model import ConversationModel
from convmodel.text_encoder import text_encoder
from convmodel.tokenizer import ConversationTokenizer

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedTokenizerBase

FIRST_SYMBOL = 0xF0000
"""Old entries are learned over as single characters of Unicode's private planes; there are 131,068 of them."""

LEAST_OFTEN = 2
"""How often a new entry must stand in the text."""


def grow_vocabulary(model: ConversationModel, texts: Iterable[str], entries: int) -> ConversationModel:
    """Continues the BPE training of a model's vocabulary on other text.

    New merges come after all old ones, so that a text in which no new piece stands is encoded as ever. The row of a new
    entry begins as the mean of the rows of the pieces that stood in its place (Gee et al., 2022, Fast Vocabulary
    Transfer, https://aclanthology.org/2022.emnlp-industry.41).

    Args:
        model: The model; its weights go over to the result, and it must not be used again.
        texts: What to learn entries from, such as the turns of a corpus.
        entries: How many; fewer where pairs of pieces do not stand twice any more.

    Raises:
        ConfigError: If there is no number of entries, or the vocabulary is no BPE of words.

    Example:
        >>> model = ConversationModel.from_pretrained("gpt2")
        >>> len(model.tokenizer.encode("おはよう"))
        6
        >>> grown = grow_vocabulary(model, ["おはよう、元気", "おはよう"], 5)
        >>> len(grown.tokenizer.encode("おはよう")), grown.tokenizer.encode("Hello")
        (1, [15496])
    """
    if entries < 1:
        raise ConfigError(f"entries is {entries}: it must be at least 1")
    tokenizer = model.tokenizer
    encoder = text_encoder(tokenizer.hf_tokenizer)
    require_words_of_bpe(encoder)
    merges = learn_merges(encoder, texts, entries)
    hf_tokenizer, new = with_merges(tokenizer.hf_tokenizer, merges)
    grow_embedding(model.hf_model, len(hf_tokenizer))
    embeddings = (model.hf_model.get_input_embeddings(), model.hf_model.get_output_embeddings())
    layers: list[Any] = [layer for layer in embeddings if layer is not None]
    with torch.no_grad():
        for values in {layer.weight.data_ptr(): layer.weight for layer in layers}.values():
            for index, pieces in new.items():  # in the order in which they were learned: pieces come before
                values[index] = values[list(pieces)].mean(dim=0)
    return ConversationModel(model.hf_model, ConversationTokenizer(hf_tokenizer, layout=tokenizer.layout))


def require_words_of_bpe(encoder: "Tokenizer") -> None:
    """Checks that merges can be added to a vocabulary.

    Raises:
        ConfigError: If it is of another kind.
    """
    state = json.loads(encoder.to_str())
    affixes = [state["model"].get(name) for name in ("continuing_subword_prefix", "end_of_word_suffix")]
    if state["model"]["type"] != "BPE" or any(affixes) or encoder.pre_tokenizer is None:
        kind = state["model"]["type"]
        raise ConfigError(
            f"the vocabulary is {kind}{'' if kind != 'BPE' else ' of another form'}: only a byte-level BPE grows; "
            "leave the option out, or train from scratch"
        )


def learn_merges(encoder: "Tokenizer", texts: Iterable[str], entries: int) -> list[tuple[str, str]]:
    """Learns which pieces to join: BPE over the old entries instead of bytes.

    Returns:
        Pairs of pieces as the vocabulary spells them, the most frequent first.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers

    pieces = sorted(encoder.get_vocab(), key=encoder.get_vocab().__getitem__)
    symbols = {piece: chr(FIRST_SYMBOL + number) for number, piece in enumerate(pieces)}
    spelled = {symbol: piece for piece, symbol in symbols.items()}
    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    trainer: Any = trainers.BpeTrainer(
        vocab_size=len(symbols) + entries,
        initial_alphabet=list(spelled),
        min_frequency=LEAST_OFTEN,
        show_progress=False,
    )
    learner.train_from_iterator(_in_symbols(encoder, texts, symbols), trainer)

    def spell(joined: str) -> str:
        return "".join(spelled[symbol] for symbol in joined)

    merges = json.loads(learner.to_str())["model"]["merges"]
    return [(spell(first), spell(second)) for first, second in merges]


def _in_symbols(encoder: "Tokenizer", texts: Iterable[str], symbols: dict[str, str]) -> Iterator[str]:
    """Writes each word as the symbols of its pieces; words are found once only."""
    known: dict[str, str] = {}
    model, normalizer, pre_tokenizer = encoder.model, encoder.normalizer, encoder.pre_tokenizer
    for text in texts:
        words = pre_tokenizer.pre_tokenize_str(normalizer.normalize_str(text) if normalizer else text)
        for word, _ in words:
            if word not in known:
                known[word] = "".join(symbols[token.value] for token in model.tokenize(word))
        yield " ".join(known[word] for word, _ in words)


def with_merges(
    hf_tokenizer: "PreTrainedTokenizerBase", merges: list[tuple[str, str]]
) -> "tuple[PreTrainedTokenizerBase, dict[int, tuple[int, int]]]":
    """Copies a tokenizer and adds merges.

    Returns:
        The copy, and for each new entry the two that it joins.
    """
    from tokenizers import Tokenizer

    grown: Any = copy.deepcopy(hf_tokenizer)
    state = json.loads(grown.backend_tokenizer.to_str())
    vocabulary = state["model"]["vocab"]
    # Added tokens beyond the vocabulary become part of it: it may have no holes.
    vocabulary.update({token["content"]: token["id"] for token in state["added_tokens"]})
    new: dict[int, tuple[int, int]] = {}
    for first, second in merges:
        if first + second not in vocabulary:
            index = len(vocabulary)
            vocabulary[first + second] = index
            new[index] = (vocabulary[first], vocabulary[second])
        state["model"]["merges"].append([first, second])
    grown._tokenizer = Tokenizer.from_str(json.dumps(state))
    return grown, new
