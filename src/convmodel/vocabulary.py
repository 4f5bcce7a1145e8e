"""A new vocabulary, learned from text.

Owns: the kind of tokenizer that convmodel trains: byte-level BPE, so that nothing is unknown, with its own separator.
"""

from collections.abc import Iterable
from typing import TYPE_CHECKING

from convmodel.separator import SEPARATOR

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

END_OF_TEXT = "<|endoftext|>"


def train_vocabulary(texts: Iterable[str], vocab_size: int) -> "PreTrainedTokenizerFast":
    """Learns a byte-level BPE vocabulary (Sennrich et al., 2016, over bytes as in GPT-2).

    Args:
        texts: What to learn from, such as the turns of a corpus.
        vocab_size: Entries, the 256 bytes and the two control tokens included; fewer where the text is too short.

    Example:
        >>> tokenizer = train_vocabulary(["low lower lowest", "new newer newest"], 262)
        >>> tokenizer.sep_token, tokenizer.decode(tokenizer.encode("Zoë 🙂"))
        ('<sep>', 'Zoë 🙂')
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[END_OF_TEXT, SEPARATOR],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token=END_OF_TEXT, eos_token=END_OF_TEXT, sep_token=SEPARATOR
    )
