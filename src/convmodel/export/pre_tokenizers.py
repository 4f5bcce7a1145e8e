"""Which of llama.cpp's pre-tokenizers splits text as a byte-level tokenizer does.

Owns: the texts that tell them apart, and the order in which they are tried. `layout.gguf` has their rules.
"""

from typing import TYPE_CHECKING, Any

from convmodel.errors import ConfigError
from convmodel.layout.gguf import Splitting, splitting_by
from convmodel.layout.text_encoder import encode_all

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_NAMES = ("gpt-2", "smollm", "qwen2", "llama-bpe", "smaug-bpe", "gpt-4o", "tekken", "qwen35")
"""One of each kind; other names stand for the same rules."""

PROBES = (
    "Hello there, how are you?",
    "I'm sure THEY'LL say it isn't, WE'VE heard",
    "  two spaces, then   three\tand a tab ",
    "line\nline\n\nparagraph\r\n  indented",
    "It cost 1 or 12 or 1234567 in 2024/10/31, 3.14",
    "camelCaseWords HTMLParser iPhone McDonald",
    "naïve café Ünïcode Straße",
    "日本語のテキスト、你好。 안녕하세요",
    "😀👍🏽 🤷‍♀️!!! ... ???\n\n---",
    "def f(x):\n    return x**2  # /path/to//file",
    "don't 'tis ''quoted'' \"double\" (brackets) [x] {y}",
    "١٢٣ ४५६ ⅷ ²",
)
"""Texts that differ in how the rules split them."""


def find_pre_tokenizer(encoder: "Tokenizer", model: dict[str, Any]) -> str:
    """Returns the name of the pre-tokenizer with which a BPE model encodes all probes as an encoder does.

    Args:
        encoder: The encoder of text; see `text_encoder`.
        model: Its serialized model: vocabulary and merges.

    Raises:
        ConfigError: If there is none.
    """
    expected = encode_all(encoder, PROBES)
    for name in _NAMES:
        splitting = splitting_by(name)
        if splitting and encode_all(_tokenizer(model, splitting), PROBES) == expected:
            return name
    raise ConfigError(
        "this model cannot be exported to GGUF: its tokenizer splits text in a way that none of llama.cpp's "
        f"pre-tokenizers {', '.join(_NAMES)} does"
    )


def _tokenizer(model: dict[str, Any], splitting: Splitting) -> "Tokenizer":
    from tokenizers import Tokenizer, models

    pairs = (merge.split(" ", 1) if isinstance(merge, str) else merge for merge in model["merges"])
    merges = [(left, right) for left, right in pairs]
    tokenizer = Tokenizer(models.BPE(model["vocab"], merges, ignore_merges=splitting.ignores_merges))
    tokenizer.pre_tokenizer = splitting.pre_tokenizer
    return tokenizer
