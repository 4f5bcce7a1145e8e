"""The vocabulary of a page, and the classes of characters that it splits texts by."""

import json
import random
import re
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Regex, Tokenizer, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from convmodel.errors import ConfigError
from convmodel.export.html_vocabulary import character_classes, read_vocabulary
from convmodel.layout.tokenizer import ConversationTokenizer


@pytest.mark.slow
def test_control_tokens_are_never_text(gpt2_tokenizer: ConversationTokenizer) -> None:
    vocabulary = read_vocabulary(gpt2_tokenizer)
    assert len(vocabulary.tokens) == len(gpt2_tokenizer)
    assert [index for index, token in enumerate(vocabulary.tokens) if token is None] == gpt2_tokenizer.stop_token_ids
    assert vocabulary.tokens[15496] == "Hello"
    left, right = vocabulary.merges[:2]
    assert (vocabulary.tokens[left], vocabulary.tokens[right]) == ("Ġ", "t")


@pytest.mark.parametrize("name", ["letters", "numbers", "spaces"])
def test_classes_are_those_of_the_tokenizers_library(name: str) -> None:
    pattern = {"letters": r"\p{L}", "numbers": r"\p{N}", "spaces": r"\s"}[name]
    ranges = [tuple(int(end, 16) for end in each.split("-")) for each in character_classes()[name].split(",")]
    assert all(first[1] + 1 < second[0] for first, second in pairwise(ranges))
    chance = random.Random(0)
    edges = {code for begin, end in ranges for code in (begin - 1, begin, end, end + 1) if code >= 0}
    split = pre_tokenizers.Split(Regex(f"^{pattern}$"), "removed")
    for code in [*edges, *(chance.randrange(0x110000) for _ in range(2000))]:
        if not 0xD800 <= code < 0xE000:
            is_member = not split.pre_tokenize_str(chr(code))
            assert is_member == any(begin <= code <= end for begin, end in ranges), hex(code)


def changed(tokenizer: ConversationTokenizer, change: dict[str, Any]) -> ConversationTokenizer:
    """Returns a tokenizer whose `tokenizer.json` has other values."""
    state = json.loads(tokenizer.hf_tokenizer.backend_tokenizer.to_str())
    for place, value in change.items():
        *folders, name = place.split(".")
        part = state
        for folder in folders:
            part = part[folder]
        part[name] = value
    backend = Tokenizer.from_str(json.dumps(state))
    return ConversationTokenizer(PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>"))


@pytest.mark.slow
@pytest.mark.parametrize(
    "change",
    [
        {"pre_tokenizer.add_prefix_space": True},
        {"pre_tokenizer.use_regex": False},
        {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": True}]}},
        {"pre_tokenizer": None},
        {"normalizer": {"type": "NFC"}},
        {"model.ignore_merges": True},
        {"model.dropout": 0.1},
        {"decoder": None},
    ],
)
def test_other_ways_to_split_texts_are_refused(gpt2_tokenizer: ConversationTokenizer, change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"splits texts as GPT-2's does.*export another format"):
        read_vocabulary(changed(gpt2_tokenizer, change))


def test_a_vocabulary_without_all_bytes_needs_no_unknown_token(gpt2_tokenizer: ConversationTokenizer) -> None:
    state = json.loads(gpt2_tokenizer.hf_tokenizer.backend_tokenizer.to_str())["model"]
    vocabulary = {token: index for token, index in state["vocab"].items() if re.match(r"^[a-y ]$|<\|", token)}
    change = {"model.vocab": {token: index for index, token in enumerate(vocabulary)}, "model.merges": []}
    tokenizer = changed(gpt2_tokenizer, change | {"added_tokens": []})
    assert len(read_vocabulary(tokenizer).tokens) == len(tokenizer)
    with pytest.raises(ConfigError, match="byte-level BPE"):
        read_vocabulary(changed(gpt2_tokenizer, change | {"added_tokens": [], "model.unk_token": "a"}))


def test_the_builtin_vocabulary_is_read(unigram_folder: Path) -> None:
    tokenizer = ConversationTokenizer.from_pretrained("builtin:chitchat")
    vocabulary = read_vocabulary(tokenizer)
    assert vocabulary.tokens[:3] == [None, None, "!"]
    with pytest.raises(ConfigError):
        read_vocabulary(ConversationTokenizer.from_pretrained(unigram_folder))
