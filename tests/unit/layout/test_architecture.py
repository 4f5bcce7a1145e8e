"""What is read off a Hugging Face config."""

import pytest
from transformers import BloomConfig, GPT2Config, LlamaConfig, MptConfig, PretrainedConfig, T5Config

from convmodel.layout.architecture import embeds_token_types, positions, window_length


@pytest.mark.parametrize(("config", "expected"), [(GPT2Config(), True), (LlamaConfig(), False), (T5Config(), False)])
def test_gpt2_embeds_token_types_and_llama_does_not(config: PretrainedConfig, expected: bool) -> None:
    assert embeds_token_types(config) is expected


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (GPT2Config(n_positions=128), 128),
        (LlamaConfig(max_position_embeddings=64), 64),
        (MptConfig(max_seq_len=32), 32),
        (BloomConfig(), None),
    ],
)
def test_positions_have_one_name(config: PretrainedConfig, expected: int | None) -> None:
    assert positions(config) == expected


@pytest.mark.parametrize(
    ("config", "expected"),
    [(GPT2Config(n_positions=128), 128), (LlamaConfig(max_position_embeddings=131072), 1024), (BloomConfig(), 1024)],
)
def test_windows_are_no_longer_than_the_model_or_1024(config: PretrainedConfig, expected: int) -> None:
    assert window_length(config) == expected
