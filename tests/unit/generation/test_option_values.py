"""A value that makes no sense is refused before any work, by the name of its option."""

from typing import Any

import pytest

from convmodel.errors import ConfigError
from convmodel.generation.option_values import check_ids, check_values


@pytest.mark.parametrize(
    "option",
    [
        {"max_new_tokens": "5"},
        {"max_new_tokens": 2.5},
        {"max_new_tokens": 0},
        {"max_new_tokens": -1},
        {"max_length": "100"},
        {"max_length": 0},
        {"max_length": -20},
        {"seed": "one"},
        {"seed": 1.5},
        {"seed": 2**70},
        {"stop_strings": 5},
        {"stop_strings": ["Bye", 5]},
        {"stop_strings": [""]},
        {"num_beams": "2"},
        {"num_beams": 0},
        {"num_return_sequences": "2"},
        {"reply_as": 5},
        {"reply_as": " "},
        {"bad_words_ids": [5]},
        {"bad_words_ids": [[]]},
        {"prefix_allowed_tokens_fn": 5},
        {"logits_processor": len},
        {"stopping_criteria": [5]},
        {"do_sample": "yes"},
        {"min_new_tokens": "3"},
    ],
    ids=str,
)
def test_values_that_make_no_sense_name_their_option(option: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"{next(iter(option))} is .*: it must be "):
        check_values(option)


def test_values_that_make_sense_pass_and_so_does_none() -> None:
    check_values({"max_new_tokens": 5, "seed": 0, "stop_strings": "Bye", "bad_words_ids": [[5]], "num_beams": None})


@pytest.mark.parametrize(
    "option",
    [
        {"eos_token_id": 10**7},
        {"eos_token_id": [13, 10**7]},
        {"pad_token_id": -5},
        {"suppress_tokens": [10**7]},
        {"begin_suppress_tokens": [-1]},
        {"bad_words_ids": [[5], [6, 10**7]]},
        {"logit_bias": {10**7: 1.0}},
        {"sequence_bias": {(5, 10**7): 1.0}},
        {"sequence_bias": [[[5, 10**7], 1.0]]},
    ],
    ids=str,
)
def test_ids_that_do_not_exist_are_refused(option: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=rf"{next(iter(option))} names (-\d|10000000): there are 50257 token ids"):
        check_ids(option, 50257)


def test_what_is_no_id_at_all_is_refused() -> None:
    with pytest.raises(ConfigError, match="suppress_tokens has 'a': it must be a token id"):
        check_ids({"suppress_tokens": ["a"]}, 50257)


def test_ids_that_exist_pass() -> None:
    check_ids({"eos_token_id": [0, 50256], "sequence_bias": [[[5, 6], 1.0]], "logit_bias": {"7": 1.0}}, 50257)
