"""A new vocabulary, learned from text.

Owns: the kinds of tokenizers that convmodel trains: over bytes, so that nothing is unknown, with their own separator.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from convmodel.errors import ConfigError
from convmodel.layout.separator import SEPARATOR

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"

KINDS = ("bpe", "unigram")
"""How pieces are chosen: by joining what often stands together, or by the likelihood of the text.

Only bpe learns the same vocabulary from the same text every time; unigram's sums depend on their order.
"""

SMALLEST = 256 + 2
"""Entries that every vocabulary has: the bytes, and the two control tokens."""


def train_vocabulary(texts: Iterable[str], vocab_size: int, kind: str = "bpe") -> "PreTrainedTokenizerFast":
    """Learns a vocabulary over UTF-8 bytes, which writes any text of any script.

    BPE (Sennrich et al., 2016, https://arxiv.org/abs/1508.07909; over bytes as in GPT-2) or Unigram (Kudo, 2018,
    https://arxiv.org/abs/1804.10959).

    Args:
        texts: What to learn from, such as the turns of a corpus; read once.
        vocab_size: Entries, the 256 bytes and the two control tokens included; fewer where the text is too short.
        kind: One of `KINDS`.

    Raises:
        ConfigError: If there is no such kind, or the size is too small for the kind.

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
