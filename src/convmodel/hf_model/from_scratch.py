"""New models, of random weights, over a vocabulary learned from the conversations that they are to learn.

Owns: the shapes of new models, and how large a vocabulary suits how much text.
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
    """How large a new GPT-2 is, and what is known to train it well.

    Attributes:
        layers: Blocks of attention and feed-forward network.
        width: Numbers in a hidden state.
        heads: Attention heads a layer.
        positions: Longest context with its response, in tokens.
        vocabulary: Most entries of a vocabulary learned for it.
        learning_rate: The peak that it learns well at.
        batch_size: Rows of `positions` tokens an update.
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
        """Weights with the whole vocabulary: embeddings, and 12 width**2 + 13 width a layer (biases included)."""
        return (self.vocabulary + self.positions + 2) * self.width + self.layers * (12 * self.width + 13) * self.width


SHAPES = {
    "tiny": Shape(4, 192, 3, 256, 2048, 1e-3, 4),
    "small": Shape(4, 320, 5, 512, 8000, 1e-3, 4),
    "base": Shape(12, 768, 12, 1024, 32000, 6e-4, 8),
}
"""tiny learns a few hundred conversations in minutes, small is that of `builtin:chitchat`, base is GPT-2 small's."""

BYTES_AN_ENTRY = 300
"""How much text there must be for each entry of a vocabulary, so that the rarest pieces are seen some times."""

FEWEST_ENTRIES = 512

ENCODED = 2000
"""Turns that are encoded to estimate how many tokens there are; all, if there are fewer than twice as many."""


@dataclass(frozen=True, slots=True)
class NewModel:
    """An untrained model, and the size of the text that it will learn from.

    Attributes:
        hf_model: The model, with random weights.
        tokenizer: Its layout and vocabulary.
        tokens: Tokens of the conversations, separators included, each once; estimated where there are many turns.
        text_bytes: UTF-8 bytes of their turns.
    """

    hf_model: "PreTrainedModel"
    tokenizer: ConversationTokenizer
    tokens: int
    text_bytes: int

    @property
    def parameters(self) -> int:
        """How many numbers the model has."""
        return self.hf_model.num_parameters()


def make_model(
    train: ConversationSource | ConversationReader,
    shape: str = "small",
    *,
    tokenizer: ConversationTokenizer | None = None,
    seed: int = 42,
) -> NewModel:
    """Makes an untrained GPT-2 for some conversations, and its vocabulary unless there is one.

    The same conversations and seed make the same model, whatever the machine.

    Args:
        train: The conversations to learn from: objects, a file or folder, or a reader.
        shape: One of `SHAPES`.
        tokenizer: Its vocabulary; by default one is learned: byte-level BPE, with at most an entry for every
            `BYTES_AN_ENTRY` bytes of text.
        seed: Seeds the weights.

    Raises:
        ConfigError: If there is no such shape.
        ConversationError: If the data is malformed; the message names the file and line.

    Example:
        >>> new = make_model([["Hello", "Hi, how are you?"], ["What's up", "Not much"]], "tiny")
        >>> new.hf_model.config.n_layer, len(new.tokenizer), new.text_bytes
        (4, 284, 38)
    """
    from convmodel.hf_model.loading import make_weights  # loads torch, which the shapes alone do without

    known = get_shape(shape)
    turns = [turn for conversation in ConversationReader.of(train) for turn in conversation.turns]
    text_bytes = sum(len(turn.encode()) for turn in turns)
    if tokenizer is None:
        tokenizer = ConversationTokenizer(train_vocabulary(turns, vocabulary_size(known, text_bytes)))
    hf_model, tokenizer = make_weights(gpt2_config(known, tokenizer), tokenizer, seed=seed)
    return NewModel(hf_model, tokenizer, tokens=estimate_tokens(tokenizer, turns), text_bytes=text_bytes)


def fit_settings(shape: str) -> dict[str, Any]:
    """Returns the settings of a fit that suit a shape better than the defaults, which are for trained models.

    Raises:
        ConfigError: If there is no such shape.
    """
    known = get_shape(shape)
    return {"learning_rate": known.learning_rate, "batch_size": known.batch_size, "packing": True}


def get_shape(name: str) -> Shape:
    """Returns a shape by its name.

    Raises:
        ConfigError: If there is none of that name.
    """
    if name not in SHAPES:
        raise ConfigError(f"there is no shape {name!r}: it must be {', '.join(SHAPES)}")
    return SHAPES[name]


def vocabulary_size(shape: Shape, text_bytes: int) -> int:
    """Returns how many entries suit a shape and an amount of text."""
    return min(shape.vocabulary, max(FEWEST_ENTRIES, text_bytes // BYTES_AN_ENTRY))


def gpt2_config(shape: Shape, tokenizer: ConversationTokenizer) -> "GPT2Config":
    """Returns the architecture in transformers' words."""
    from transformers import GPT2Config

    ends = tokenizer.hf_tokenizer.eos_token_id
    return GPT2Config(
        vocab_size=len(tokenizer),
        n_positions=shape.positions,
        n_embd=shape.width,
        n_layer=shape.layers,
        n_head=shape.heads,
        bos_token_id=ends,
        eos_token_id=ends,
    )


def estimate_tokens(tokenizer: ConversationTokenizer, turns: Sequence[str]) -> int:
    """Estimates how many tokens some turns are, a separator for each included, from `ENCODED` of them."""
    some = turns[:: max(1, len(turns) // ENCODED)]
    tokens_a_byte = sum(len(tokenizer.encode(turn)) for turn in some) / max(1, sum(len(turn.encode()) for turn in some))
    return round(tokens_a_byte * sum(len(turn.encode()) for turn in turns)) + len(turns)
