"""Training a new vocabulary on text.

Owns: the kinds of tokenizers that convmodel trains: byte-level, so that no text is unknown, with a separator token.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from convmodel.errors import ConfigError
from convmodel.layout.separator import SEPARATOR

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"

KINDS = ("bpe", "unigram")
"""Tokenizer algorithms: BPE merges frequent pairs, Unigram maximizes the likelihood of the text.

Only bpe is deterministic; unigram's floating-point sums depend on their order.
"""

SMALLEST = 256 + 2
"""Entries of every vocabulary: 256 bytes and two control tokens."""


def train_vocabulary(texts: Iterable[str], vocab_size: int, kind: str = "bpe") -> "PreTrainedTokenizerFast":
    """Trains a byte-level vocabulary, which can encode any text in any script.

    BPE (Sennrich et al., 2016, https://arxiv.org/abs/1508.07909; over bytes as in GPT-2) or Unigram (Kudo, 2018,
    https://arxiv.org/abs/1804.10959).

    Args:
        texts: The training text, such as the turns of a corpus; read once.
        vocab_size: Number of entries, including 256 bytes and two control tokens; fewer if the text is too short.
        kind: `bpe` or `unigram`.

    Raises:
        ConfigError: If the kind does not exist, or `vocab_size` is too small for it.

    Example:
        >>> tokenizer = train_vocabulary(["low lower lowest", "new newer newest"], 262)
        >>> tokenizer.sep_token, tokenizer.decode(tokenizer.encode("Zoë 🙂"))
        ('<sep>', 'Zoë 🙂')
    """
    if kind not in KINDS:
        raise ConfigError(f"the kind of the vocabulary is {kind!r}: it must be {' or '.join(KINDS)}")
    if vocab_size < SMALLEST:
        raise ConfigError(f"vocab_size is {vocab_size}: the bytes and the control tokens alone are {SMALLEST}")
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    shared: dict[str, Any] = {
        "vocab_size": vocab_size,
        "special_tokens": [END_OF_TEXT, SEPARATOR],
        "initial_alphabet": pre_tokenizers.ByteLevel.alphabet(),
        "show_progress": False,
    }
    trainer: Any
    if kind == "bpe":
        backend, trainer = Tokenizer(models.BPE()), trainers.BpeTrainer(**shared)
    else:
        backend, trainer = Tokenizer(models.Unigram()), trainers.UnigramTrainer(**shared)
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(texts, trainer)
    entries = backend.get_vocab_size()
    if entries > vocab_size:
        raise ConfigError(f"vocab_size is {vocab_size}: {kind} needs {entries} for this text; bpe takes fewer")
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, sep_token=SEPARATOR
    )
