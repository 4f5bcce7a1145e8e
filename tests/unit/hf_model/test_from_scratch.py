"""New models: their shapes, vocabularies that suit the data, and the same model from the same data."""

import json
from pathlib import Path

import pytest
import torch

from convmodel.errors import ConfigError, ConversationError
from convmodel.hf_model.from_scratch import (
    FEWEST_ENTRIES,
    SHAPES,
    estimate_tokens,
    fit_settings,
    get_shape,
    gpt2_config,
    make_model,
    vocabulary_size,
)
from convmodel.layout.tokenizer import ConversationTokenizer
from convmodel.layout.vocabulary import train_vocabulary
from convmodel.training.config import FitConfig

TALKS = [["おはよう", "おはようございます。元気ですか"], ["Guten Morgen", "Wie geht's?", "Gut, danke"]]


@pytest.mark.parametrize("name", SHAPES)
def test_the_parameters_of_a_shape_are_those_of_its_model(name: str) -> None:
    from transformers import GPT2LMHeadModel

    tokenizer = ConversationTokenizer(train_vocabulary(["a b"], 300))
    config = gpt2_config(SHAPES[name], tokenizer)
    with torch.device("meta"):
        model = GPT2LMHeadModel(config)

    missing = (SHAPES[name].vocabulary - len(tokenizer)) * SHAPES[name].width
    assert model.num_parameters() + missing == SHAPES[name].parameters


def test_small_is_the_built_in_models_shape_and_base_is_gpt2_smalls() -> None:
    assert round(SHAPES["small"].parameters / 1e6, 1) == 7.7
    base = SHAPES["base"]
    assert (base.layers, base.width, base.heads, base.positions) == (12, 768, 12, 1024)


def test_a_new_model_learns_its_vocabulary_from_the_conversations() -> None:
    new = make_model(TALKS, "tiny")

    assert new.tokenizer.layout.use_token_types
    assert len(new.tokenizer) == new.hf_model.config.vocab_size
    # All turns are encoded here, so the estimate is exact.
    assert new.tokens == sum(len(new.tokenizer.encode(turn)) + 1 for talk in TALKS for turn in talk)


def test_the_same_conversations_and_seed_make_the_same_model() -> None:
    first, again, other = (make_model(TALKS, "tiny", seed=seed) for seed in (3, 3, 4))

    vocabularies = [model.tokenizer.hf_tokenizer.backend_tokenizer.to_str() for model in (first, again)]
    assert vocabularies[0] == vocabularies[1]
    assert all(map(torch.equal, first.hf_model.parameters(), again.hf_model.parameters()))
    assert not torch.equal(*(model.hf_model.transformer.wte.weight for model in (first, other)))


def test_a_new_model_can_go_without_token_types() -> None:
    tokenizer = ConversationTokenizer(train_vocabulary(["low lower"], 261))
    for new in (make_model(TALKS, "tiny", use_token_types=False), make_model(TALKS, "tiny", tokenizer=tokenizer)):
        assert new.tokenizer.layout.use_token_types is (new.tokenizer is tokenizer)
    assert not make_model(TALKS, "tiny", tokenizer=tokenizer, use_token_types=False).tokenizer.layout.use_token_types


def test_a_vocabulary_of_ones_own_is_taken() -> None:
    tokenizer = ConversationTokenizer(train_vocabulary(["low lower"], 261))

    assert make_model(TALKS, "tiny", tokenizer=tokenizer).tokenizer is tokenizer


@pytest.mark.parametrize(
    ("text_bytes", "entries"), [(0, 512), (153_900, 513), (300_000, 1000), (614_400, 2048), (10**9, 2048)]
)
def test_entries_grow_with_the_text_up_to_the_shapes_own(text_bytes: int, entries: int) -> None:
    assert vocabulary_size(SHAPES["tiny"], text_bytes) == entries
    assert FEWEST_ENTRIES == 512


def test_tokens_of_many_turns_are_estimated_from_some() -> None:
    tokenizer = ConversationTokenizer(train_vocabulary(["a b"], 258))
    turns = ["ab" if number % 2 else "abcd" for number in range(9000)]

    assert estimate_tokens(tokenizer, turns) == pytest.approx(3 * 9000 + 9000, rel=0.05)
    assert estimate_tokens(tokenizer, []) == 0


@pytest.mark.parametrize("name", SHAPES)
def test_settings_of_a_shape_are_a_fits(name: str) -> None:
    config = FitConfig.from_options(fit_settings(name))

    assert (config.packing, config.learning_rate, config.batch_size) == (
        True,
        SHAPES[name].learning_rate,
        SHAPES[name].batch_size,
    )


def test_no_such_shape() -> None:
    for asked in (get_shape, fit_settings, lambda name: make_model(TALKS, name)):
        with pytest.raises(ConfigError, match="there is no shape 'huge': it must be tiny, small, base"):
            asked("huge")


def test_bad_data_is_located(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(["Hi", "Yes"]) + '\n["Hi", 7]\n')

    with pytest.raises(ConversationError, match=f"{path}:2: "):
        make_model(str(path), "tiny")
