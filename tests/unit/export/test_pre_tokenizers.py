"""llama.cpp's pre-tokenizers are recognized by what they do."""

import json
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from convmodel.errors import ConfigError
from convmodel.export.pre_tokenizers import find_pre_tokenizer
from convmodel.layout.text_encoder import text_encoder
from tokenizers_zoo import LLAMA3_WORDS

BYTES = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
QWEN = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
STEPS: dict[str, Any] = {
    "gpt-2": [pre_tokenizers.ByteLevel(add_prefix_space=False)],
    "smollm": [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)],
    "qwen2": [pre_tokenizers.Split(Regex(QWEN), "isolated"), BYTES],
    "llama-bpe": [pre_tokenizers.Split(LLAMA3_WORDS, "isolated"), BYTES],
}


def make(steps: list[Any], **settings: Any) -> tuple[Tokenizer, dict[str, Any]]:
    """An encoder and its model, whose merges cross every border that the steps draw."""
    backend = Tokenizer(models.BPE(**settings))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    text = "12 34 1234567\n\n  x\n y  I'm THEY'LL /a//b  ...\r\n camelCase HTMLParser\tz 12 1234567\n\n  x THEY'LL " * 3
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = trainers.BpeTrainer(vocab_size=400, initial_alphabet=alphabet, show_progress=False)
    backend.train_from_iterator([text], trainer)
    backend.pre_tokenizer = pre_tokenizers.Sequence(steps)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend)
    return text_encoder(tokenizer), json.loads(backend.to_str())["model"]


@pytest.mark.parametrize("name", STEPS)
def test_a_rule_is_recognized(name: str) -> None:
    settings = {"ignore_merges": True} if name == "llama-bpe" else {}
    assert find_pre_tokenizer(*make(STEPS[name], **settings)) == name


def test_an_unknown_rule_is_an_error() -> None:
    with pytest.raises(ConfigError, match=r"in a way that none of llama\.cpp's pre-tokenizers gpt-2, smollm"):
        find_pre_tokenizer(*make([pre_tokenizers.Split(Regex("[aeiou]"), "isolated"), BYTES]))
