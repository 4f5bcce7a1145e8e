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
    """The size of a new GPT-2, and settings that train it well.

    Attributes:
        layers: Transformer layers.
        width: Size of a hidden state.
        heads: Attention heads per layer.
        positions: Limit of a context with its response, in tokens.
        vocabulary: Limit of the size of its vocabulary.
        learning_rate: Peak learning rate.
        batch_size: Rows of `positions` tokens per step.
    """

    layers: int
    width: int
    heads: int
    positions: int
    vocabulary: int
    learning_rate: float
    batch_size: int

    @property
    def parameters(self) -> int:
        """Parameters with a vocabulary of the largest size: embeddings, and 12 width**2 + 13 width per layer."""
        return (self.vocabulary + self.positions + 2) * self.width + self.layers * (12 * self.width + 13) * self.width


SHAPES = {
    "tiny": Shape(4, 192, 3, 256, 2048, 1e-3, 4),
    "small": Shape(4, 320, 5, 512, 8000, 1e-3, 4),
    "base": Shape(12, 768, 12, 1024, 32000, 6e-4, 8),
}
"""tiny trains on a few hundred conversations in minutes, small is `builtin:chitchat`'s, base is GPT-2 small's."""

BYTES_PER_ENTRY = 300
"""Bytes of text per vocabulary entry, so that the rarest entries occur several times."""

FEWEST_ENTRIES = 512

ENCODED_TURNS = 2000
"""Turns that are encoded to estimate the number of tokens; all turns, if there are fewer than twice as many."""


@dataclass(frozen=True, slots=True)
class NewModel:
    """An untrained model, and the size of its training text.

    Attributes:
        hf_model: The model, with random weights.
        tokenizer: Its layout and vocabulary.
        tokens: Tokens of the conversations, including separators; estimated if there are many turns.
    """

    hf_model: "PreTrainedModel"
    tokenizer: ConversationTokenizer
    tokens: int

    @property
    def parameters(self) -> int:
        """The number of parameters."""
        return self.hf_model.num_parameters()


def make_model(
    train: ConversationSource | ConversationReader,
    shape: str = "small",
    *,
    tokenizer: ConversationTokenizer | None = None,
    seed: int = 42,
) -> NewModel:
    """Makes an untrained GPT-2 for some conversations, and its vocabulary unless one is given.

    The same conversations and seed make the same model on every machine.

    Args:
        train: The training conversations: objects, a file or folder, or a reader.
        shape: One of `SHAPES`.
        tokenizer: The vocabulary; by default a byte-level BPE is trained, with at most one entry per
            `BYTES_PER_ENTRY` bytes of text.
        seed: The seed of the weights.

    Raises:
        ConfigError: If the shape does not exist.
        ConversationError: If the data is malformed; the message names the file and line.

    Example:
        >>> new = make_model([["Hello", "Hi, how are you?"], ["What's up", "Not much"]], "tiny")
        >>> new.hf_model.config.n_layer, len(new.tokenizer), new.tokens
        (4, 284, 16)
    """
    from convmodel.hf_model.loading import make_weights  # loads torch, which the shapes do not need

    size = get_shape(shape)
    turns = [turn for conversation in ConversationReader.of(train) for turn in conversation.turns]
    if tokenizer is None:
        tokenizer = ConversationTokenizer(train_vocabulary(turns, vocabulary_size(size, _text_bytes(turns))))
    hf_model, tokenizer = make_weights(gpt2_config(size, tokenizer), tokenizer, seed=seed)
    return NewModel(hf_model, tokenizer, tokens=estimate_tokens(tokenizer, turns))


def fit_settings(shape: str) -> dict[str, Any]:
    """Returns settings of `fit` for a new model of a shape; the defaults are for pretrained models.

    Raises:
        ConfigError: If the shape does not exist.
    """
    size = get_shape(shape)
    return {"learning_rate": size.learning_rate, "batch_size": size.batch_size, "packing": True}


def get_shape(name: str) -> Shape:
    """Returns a shape by name.

    Raises:
        ConfigError: If it does not exist.
    """
    if name not in SHAPES:
        raise ConfigError(f"there is no shape {name!r}: it must be {', '.join(SHAPES)}")
    return SHAPES[name]


def vocabulary_size(shape: Shape, text_bytes: int) -> int:
    """Returns the number of vocabulary entries for a shape and an amount of text."""
    return min(shape.vocabulary, max(FEWEST_ENTRIES, text_bytes // BYTES_PER_ENTRY))


def gpt2_config(shape: Shape, tokenizer: ConversationTokenizer) -> "GPT2Config":
    """Returns the `GPT2Config` of a shape."""
    from transformers import GPT2Config

    end_of_text = tokenizer.hf_tokenizer.eos_token_id
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
