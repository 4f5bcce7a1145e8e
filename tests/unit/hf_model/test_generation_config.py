"""The generation config of a conversation model: what is kept of a checkpoint's own."""

from pathlib import Path
from typing import Any

import pytest
from transformers import GenerationConfig

from convmodel.errors import ModelLoadError
from convmodel.hf_model.generation_config import SAMPLING_OPTIONS, sampling_defaults
from convmodel.layout.tokenizer import ConversationTokenizer

SAMPLED = {"temperature": 0.7, "top_k": 20, "top_p": 0.9, "min_p": 0.05}


def test_a_checkpoint_without_a_config_gets_the_layouts_ids(gpt2_tokenizer: ConversationTokenizer) -> None:
    config = sampling_defaults(None, gpt2_tokenizer)
    assert config.eos_token_id == gpt2_tokenizer.sep_token_id
    assert config.pad_token_id == gpt2_tokenizer.pad_token_id
    assert not config.do_sample


def test_sampling_options_are_kept_where_the_checkpoint_samples(gpt2_tokenizer: ConversationTokenizer) -> None:
    assert set(SAMPLED) < set(SAMPLING_OPTIONS)
    kept = sampling_defaults(GenerationConfig(do_sample=True, repetition_penalty=1.1, **SAMPLED), gpt2_tokenizer)
    assert {name: getattr(kept, name) for name in SAMPLED} == SAMPLED
    assert (kept.do_sample, kept.repetition_penalty) == (True, 1.1)

    greedy = sampling_defaults(GenerationConfig(do_sample=False, repetition_penalty=1.1), gpt2_tokenizer)
    assert (greedy.do_sample, greedy.repetition_penalty, greedy.top_p) == (False, 1.1, GenerationConfig().top_p)


def test_settings_for_chats_are_kept(gpt2_tokenizer: ConversationTokenizer, tmp_path: Path) -> None:
    kept = sampling_defaults(GenerationConfig(chat={"candidates": 8, "temperature": 0.6}), gpt2_tokenizer)
    kept.save_pretrained(tmp_path)
    assert GenerationConfig.from_pretrained(tmp_path).chat == {"candidates": 8, "temperature": 0.6}
    assert (kept.do_sample, kept.temperature) == (GenerationConfig().do_sample, GenerationConfig().temperature)
    assert not hasattr(sampling_defaults(GenerationConfig(), gpt2_tokenizer), "chat")


@pytest.mark.parametrize(
    ("chat", "problem"),
    [
        (["candidates"], "is not a table of options"),
        ({"candidates": "8"}, "candidates of .* is not a whole number"),
        ({"candidates": True}, "candidates of .* is not a whole number"),
        ({"temperature": None}, "temperature of .* is not a number"),
        ({"candidate": 8}, "unknown option candidate .known: candidates, "),
    ],
)
def test_invalid_settings_for_chats_are_refused(gpt2_tokenizer: ConversationTokenizer, chat: Any, problem: str) -> None:
    with pytest.raises(ModelLoadError, match=f"{problem}.*: correct it in generation_config.json"):
        sampling_defaults(GenerationConfig(chat=chat), gpt2_tokenizer)


def test_nothing_that_ends_or_searches_a_response_is_kept(gpt2_tokenizer: ConversationTokenizer) -> None:
    saved = GenerationConfig(max_length=5, num_beams=4, suppress_tokens=[1], stop_strings=["x"], eos_token_id=7)
    assert sampling_defaults(saved, gpt2_tokenizer).to_dict() == sampling_defaults(None, gpt2_tokenizer).to_dict()
