"""Options are checked before any work, and say what to do instead."""

from dataclasses import FrozenInstanceError
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from transformers import BloomConfig, GPT2Config, LlamaConfig, PretrainedConfig

from convmodel import ConversationTokenizer
from convmodel.errors import ConfigError
from convmodel.generation.options import MAX_NEW_TOKENS, GenerationOptions, read_options, warn_once


@pytest.fixture(scope="module")
def tokenizer(gpt2_folder: Path) -> ConversationTokenizer:
    return ConversationTokenizer.from_pretrained(gpt2_folder)


@pytest.fixture(scope="module")
def llama_tokenizer(bytelevel_folder: Path) -> ConversationTokenizer:
    return ConversationTokenizer.from_pretrained(bytelevel_folder)


def read(
    tokenizer: ConversationTokenizer, config: PretrainedConfig | None = None, /, **options: Any
) -> GenerationOptions:
    hf_model: Any = SimpleNamespace(config=config or GPT2Config(n_positions=128))
    return read_options(hf_model, tokenizer, options)


def test_an_unknown_option_is_named_beside_those_there_are(tokenizer: ConversationTokenizer) -> None:
    with pytest.raises(ConfigError, match=r"max_tokens.*max_new_tokens"):
        read(tokenizer, max_tokens=5)


def test_all_unknown_options_are_named(tokenizer: ConversationTokenizer) -> None:
    with pytest.raises(ConfigError, match="beams, topp"):
        read(tokenizer, topp=0.9, beams=3)


@pytest.mark.parametrize("name", ["input_ids", "attention_mask", "token_type_ids", "self", "kwargs", "tokenizer"])
def test_what_convmodel_gives_itself_is_no_option(tokenizer: ConversationTokenizer, name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        read(tokenizer, **{name: object()})


@pytest.mark.parametrize(
    ("option", "fix"),
    [
        ({"penalty_alpha": 0.6, "top_k": 4}, "do_sample=True"),
        ({"dola_layers": "low"}, "do_sample=True"),
        ({"constraints": [object()]}, "prefix_allowed_tokens_fn"),
        ({"force_words_ids": [[5]]}, "prefix_allowed_tokens_fn"),
        ({"num_beam_groups": 2, "num_beams": 4}, "num_beams"),
        ({"custom_generate": "someone/something"}, "runs code from the Hub"),
        ({"trust_remote_code": True}, "runs code from the Hub"),
        ({"streamer": object()}, "stream"),
        ({"inputs": [1]}, "context"),
        ({"generation_config": object()}, "options"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_refused_options_say_why(tokenizer: ConversationTokenizer, option: dict[str, Any], fix: str) -> None:
    with pytest.raises(ConfigError, match=f"{next(iter(option))} is not an option.*{fix}"):
        read(tokenizer, **option)


@pytest.mark.parametrize(
    "option", [{"assistant_model": object()}, {"prompt_lookup_num_tokens": 3}, {"assistant_early_exit": 1}]
)
def test_assisted_decoding_is_refused_where_there_are_token_types(
    tokenizer: ConversationTokenizer, option: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match="assisted"):
        read(tokenizer, **option)


def test_assisted_decoding_is_an_option_without_token_types(llama_tokenizer: ConversationTokenizer) -> None:
    options = read(llama_tokenizer, LlamaConfig(), prompt_lookup_num_tokens=3)
    assert options.hf["prompt_lookup_num_tokens"] == 3


def test_values_and_ids_are_checked(tokenizer: ConversationTokenizer) -> None:
    with pytest.raises(ConfigError, match="max_new_tokens is 0: it must be"):
        read(tokenizer, max_new_tokens=0)
    with pytest.raises(ConfigError, match="eos_token_id names 10000000"):
        read(tokenizer, eos_token_id=10**7)


def test_options_of_transformers_are_passed_on(tokenizer: ConversationTokenizer) -> None:
    given = {"do_sample": True, "top_p": 0.9, "temperature": 0.7, "repetition_penalty": 1.1, "use_cache": False}
    assert read(tokenizer, **given).hf.items() >= given.items()


def test_an_option_that_is_none_counts_as_left_out(tokenizer: ConversationTokenizer) -> None:
    left_out = {"top_p": None, "max_new_tokens": None, "seed": None, "reply_as": None, "penalty_alpha": None}
    assert read(tokenizer, **left_out) == read(tokenizer)


def test_an_unknown_option_is_an_error_as_none_too(tokenizer: ConversationTokenizer) -> None:
    with pytest.raises(ConfigError, match=r"no generation option is called temprature.*did you mean.*temperature"):
        read(tokenizer, temprature=None)


def test_our_own_options_do_not_reach_transformers(tokenizer: ConversationTokenizer) -> None:
    options = read(tokenizer, reply_as="Ann", seed=0, cut_long_turn=True)
    assert (options.reply_as, options.seed, options.cut_long_turn) == ("Ann", 0, True)
    assert not {"reply_as", "seed", "cut_long_turn"} & options.hf.keys()


@pytest.mark.parametrize(("positions", "expected"), [(128, 32), (1024, MAX_NEW_TOKENS), (16, 4)])
def test_a_response_has_a_quarter_of_the_positions_at_most(
    tokenizer: ConversationTokenizer, positions: int, expected: int
) -> None:
    options = read(tokenizer, GPT2Config(n_positions=positions))
    assert options.hf["max_new_tokens"] == expected
    assert options.budget == positions - expected


def test_a_model_without_a_limit_has_no_budget(tokenizer: ConversationTokenizer) -> None:
    options = read(tokenizer, BloomConfig())
    assert options.hf["max_new_tokens"] == MAX_NEW_TOKENS
    assert options.budget is None


def test_the_prompt_gets_what_the_new_tokens_leave(tokenizer: ConversationTokenizer) -> None:
    assert read(tokenizer, max_new_tokens=100).budget == 28


def test_no_room_for_a_context_is_an_error(tokenizer: ConversationTokenizer) -> None:
    with pytest.raises(ConfigError, match=r"126 new tokens leave no room.*128 positions.*lower max_new_tokens"):
        read(tokenizer, max_new_tokens=126)
    assert read(tokenizer, max_new_tokens=125).budget == 3


def test_max_length_bounds_prompt_and_response_together(tokenizer: ConversationTokenizer) -> None:
    options = read(tokenizer, max_length=50)
    assert options.max_length == 50
    assert options.budget == 49
    assert "max_length" not in options.hf


def test_max_length_never_exceeds_the_positions(tokenizer: ConversationTokenizer) -> None:
    assert read(tokenizer, max_length=5000).max_length == 128


def test_max_new_tokens_wins_over_max_length(tokenizer: ConversationTokenizer) -> None:
    options = read(tokenizer, max_length=20, max_new_tokens=40)
    assert options.max_length is None
    assert options.hf["max_new_tokens"] == 40
    assert options.budget == 88


def test_a_max_length_without_room_is_an_error(tokenizer: ConversationTokenizer) -> None:
    with pytest.raises(ConfigError, match="no room"):
        read(tokenizer, max_length=3)


def test_a_response_ends_with_the_separator(tokenizer: ConversationTokenizer) -> None:
    options = read(tokenizer)
    assert options.stop_token_ids == {50256}
    assert options.hf["pad_token_id"] == 50256


def test_the_end_of_text_ends_a_response_too(llama_tokenizer: ConversationTokenizer) -> None:
    separator, end_of_text = llama_tokenizer.sep_token_id, llama_tokenizer.hf_tokenizer.eos_token_id
    assert separator != end_of_text
    assert read(llama_tokenizer, LlamaConfig()).stop_token_ids == {separator, end_of_text}


@pytest.mark.parametrize(("given", "expected"), [(13, {13}), ([13, 0], {13, 0})])
def test_the_caller_may_choose_the_stop_ids(
    tokenizer: ConversationTokenizer, given: int | list[int], expected: set[int]
) -> None:
    assert read(tokenizer, eos_token_id=given).stop_token_ids == expected


@pytest.mark.parametrize(
    ("given", "expected"), [(None, []), ([], []), ("Bye", ["Bye"]), (["Bye", "\n"], ["Bye", "\n"])], ids=str
)
def test_stop_strings_are_one_or_several(
    tokenizer: ConversationTokenizer, given: str | list[str] | None, expected: list[str]
) -> None:
    assert read(tokenizer, stop_strings=given).stop_strings == expected


@pytest.mark.parametrize(
    "options",
    [{"temperature": 0.7}, {"top_p": 0.9}, {"top_k": 5}, {"min_p": 0.1}, {"typical_p": 0.5}, {"temperature": 1.0}],
    ids=str,
)
def test_an_option_of_sampling_implies_sampling(tokenizer: ConversationTokenizer, options: dict[str, Any]) -> None:
    assert read(tokenizer, **options).hf["do_sample"] is True
    with pytest.raises(ConfigError, match="changes nothing with do_sample=False: leave one of them out"):
        read(tokenizer, **{"top_p": 0.5} | options, do_sample=False)


def test_a_temperature_of_0_takes_the_most_probable_tokens(tokenizer: ConversationTokenizer) -> None:
    for options in ({"temperature": 0}, {"temperature": 0.0, "top_p": 0.9}, {"temperature": 0, "do_sample": False}):
        hf = read(tokenizer, **options).hf
        assert hf["do_sample"] is False
        assert not {"temperature", "top_p"} & hf.keys()


def test_values_without_effect_are_allowed_without_sampling(tokenizer: ConversationTokenizer) -> None:
    assert read(tokenizer, do_sample=False, temperature=1.0, top_p=1.0, top_k=0).hf["do_sample"] is False


def test_a_seed_without_sampling_is_said_to_change_nothing(
    tokenizer: ConversationTokenizer, caplog: pytest.LogCaptureFixture
) -> None:
    warn_once.cache_clear()
    read(tokenizer, seed=1, do_sample=True)
    read(tokenizer, seed=1, temperature=0.5)
    read(tokenizer, seed=1, do_sample=False)
    assert not caplog.records
    for _ in range(2):
        read(tokenizer, seed=1)
    assert caplog.messages == [
        "seed changes nothing without sampling: give do_sample=True, or an option such as temperature"
    ]


def test_a_minimum_above_the_maximum_is_refused(tokenizer: ConversationTokenizer) -> None:
    with pytest.raises(ConfigError, match="min_new_tokens is 10, but max_new_tokens is 5: lower it"):
        read(tokenizer, min_new_tokens=10, max_new_tokens=5)
    assert read(tokenizer, min_new_tokens=5, max_new_tokens=5).hf["min_new_tokens"] == 5


def test_numbers_of_numpy_are_numbers(tokenizer: ConversationTokenizer) -> None:
    options = read(
        tokenizer, max_new_tokens=np.int64(5), temperature=np.float32(0.5), seed=np.uint8(3), do_sample=np.bool_(True)
    )
    assert (options.hf["max_new_tokens"], options.hf["temperature"], options.seed) == (5, 0.5, 3)
    assert read(tokenizer, eos_token_id=np.array([13, 0])).stop_token_ids == {13, 0}


def test_checked_options_do_not_change(tokenizer: ConversationTokenizer) -> None:
    options = read(tokenizer)
    with pytest.raises(FrozenInstanceError):
        options.seed = 5  # type: ignore[misc]


def test_the_callers_dictionary_is_left_alone(tokenizer: ConversationTokenizer) -> None:
    given = {"max_length": 50, "top_p": None, "seed": 1}
    hf_model: Any = SimpleNamespace(config=GPT2Config(n_positions=128))
    read_options(hf_model, tokenizer, given)
    assert given == {"max_length": 50, "top_p": None, "seed": 1}


def test_a_schema_becomes_the_grammar_of_the_response(tokenizer: ConversationTokenizer) -> None:
    grammar = read(tokenizer, json_schema={"type": "string"}).grammar
    assert grammar is not None
    assert grammar.option == "json_schema"
    assert read(tokenizer, json_schema=None, regex=None).grammar is None


def test_a_stop_string_could_end_what_a_schema_requires(tokenizer: ConversationTokenizer) -> None:
    with pytest.raises(ConfigError, match="stop_strings could end what json_schema requires"):
        read(tokenizer, json_schema={"type": "string"}, stop_strings=["}"])
