"""New models with random weights and a vocabulary trained on the training conversations.

Owns: the shapes of new models, and the vocabulary size for an amount of text.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from convmodel.data.reading.reader import ConversationReader, ConversationSource
from convmodel.errors import ConfigError
from convmodel.layout.tokenizer import ConversationTokenizer
from convmodel.layout.vocabulary import train_vocabulary

if TYPE_CHECKING:
    from transformers import GPT2Config, PreTrainedModel


@dataclass(frozen=True, slots=True)
class Shape:
    """The size of a new GPT-2, and settings that train it well."""

    layers: int
    width: int  # of a hidden state
    heads: int  # per layer
    positions: int  # limit of a context with its response, in tokens
    vocabulary: int  # largest size
    learning_rate: float  # peak
    batch_size: int  # rows of `positions` tokens per step

    @property
    def parameters(self) -> int:
        """Parameters with a vocabulary of the largest size: embeddings, and 12 width**2 + 13 width per layer."""
        return (self.vocabulary + self.positions + 2) * self.width + self.layers * (12 * self.width + 13) * self.width


SHAPES = {
    "tiny": Shape(4, 192, 3, 256, 2048, 1e-3, 4),
    "small": Shape(4, 320, 5, 512, 8000, 1e-3, 4),
    "base": Shape(12, 768, 12, 1024, 32000, 6e-4, 8),
}
"""tiny trains on a few hundred conversations in minutes, small on some thousands in hours, base is GPT-2 small's."""

BYTES_PER_ENTRY = 300
"""Bytes of text per vocabulary entry, so that the rarest entries occur several times."""

FEWEST_ENTRIES = 512

ENCODED_TURNS = 2000
"""Turns that are encoded to estimate the number of tokens; all turns, if there are fewer than twice as many."""


@dataclass(frozen=True, slots=True)
class NewModel:
    """An untrained model with random weights, and the size of its training text."""

    hf_model: "PreTrainedModel"
    tokenizer: ConversationTokenizer
    tokens: int  # including separators; estimated if there are many turns


def make_model(
    train: ConversationSource | ConversationReader,
    shape: str = "small",
    *,
    tokenizer: ConversationTokenizer | None = None,
    seed: int = 42,
    use_token_types: bool | None = None,
) -> NewModel:
    """Creates an untrained GPT-2 of one of `SHAPES` for some conversations, and its vocabulary unless one is given.

    The vocabulary is a byte-level BPE with at most one entry per `BYTES_PER_ENTRY` bytes of text. The same
    conversations and seed make the same model on every machine. It gets token types unless `use_token_types` is false.
    """
    from convmodel.hf_model.loading import make_weights  # loads torch, which the shapes do not need

    size = get_shape(shape)
    turns = [turn for conversation in ConversationReader.of(train) for turn in conversation.turns]
    if tokenizer is None:
        tokenizer = ConversationTokenizer(train_vocabulary(turns, vocabulary_size(size, _text_bytes(turns))))
    config = gpt2_config(size, tokenizer)
    hf_model, tokenizer = make_weights(config, tokenizer, seed=seed, use_token_types=use_token_types)
    return NewModel(hf_model, tokenizer, tokens=estimate_tokens(tokenizer, turns))


def fit_settings(shape: str) -> dict[str, Any]:
    """Returns settings of `fit` for a new model of a shape; the defaults are for pretrained models."""
    size = get_shape(shape)
    return {"learning_rate": size.learning_rate, "batch_size": size.batch_size, "packing": True}


def get_shape(name: str) -> Shape:
    """Returns a shape by name; raises a `ConfigError` if it does not exist."""
    if name not in SHAPES:
        raise ConfigError(f"there is no shape {name!r}: it must be {', '.join(SHAPES)}")
    return SHAPES[name]


def vocabulary_size(shape: Shape, text_bytes: int) -> int:
    """Returns the vocabulary size for a shape and an amount of text."""
    return min(shape.vocabulary, max(FEWEST_ENTRIES, text_bytes // BYTES_PER_ENTRY))


def gpt2_config(shape: Shape, tokenizer: ConversationTokenizer) -> "GPT2Config":
    """Returns the `GPT2Config` of a shape."""
    from transformers import GPT2Config

    end_of_text = tokenizer.stop_token_ids[-1]
    return GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=shape.positions,
        n_embd=shape.width,
        n_layer=shape.layers,
        n_head=shape.heads,
        bos_token_id=end_of_text,
        eos_token_id=end_of_text,
    )


def estimate_tokens(tokenizer: ConversationTokenizer, turns: Sequence[str]) -> int:
    """Estimates the tokens of some turns, including their separators, by encoding `ENCODED_TURNS` of them."""
    sample = turns[:: max(1, len(turns) // ENCODED_TURNS)]
    tokens_per_byte = sum(len(tokenizer.encode(turn)) for turn in sample) / max(1, _text_bytes(sample))
    return round(tokens_per_byte * _text_bytes(turns)) + len(turns)


def _text_bytes(turns: Sequence[str]) -> int:
    return sum(len(turn.encode()) for turn in turns)
