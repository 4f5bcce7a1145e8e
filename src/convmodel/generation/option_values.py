"""The values of a generation call's options, checked.

Owns: which values each option may have that convmodel itself reads. `options` owns which options there are.
"""

import math
from collections.abc import Callable, Iterator, Mapping
from typing import Any

from convmodel.arguments.values import plain
from convmodel.errors import ConfigError
from convmodel.generation.reranking import RERANK
from convmodel.hf_model.next_turn import NextTurnHead


def check_values(options: Mapping[str, Any]) -> None:
    """Checks the values of options that convmodel itself uses.

    Raises:
        ConfigError: If a value is invalid; the message names the option.
    """
    for name, (check, requirement) in _VALUES.items():
        value = options.get(name)
        if value is not None and not check(value):
            raise ConfigError(f"{name} is {value!r}: it must be {requirement}")


def check_ids(hf: Mapping[str, Any], vocab_size: int) -> None:
    """Raises a `ConfigError` if an option names token ids that do not exist."""
    for name in _IDS:
        value = hf.get(name)
        if name == "sequence_bias" and isinstance(value, list | tuple):  # of pairs of ids and a bias
            value = [pair[:1] for pair in value if isinstance(pair, list | tuple)]
        for index in _flat(value):
            if not str(index).removeprefix("-").isdecimal():
                raise ConfigError(f"{name} has {index!r}: it must be a token id")
            if not 0 <= int(index) < vocab_size:
                raise ConfigError(f"{name} names {index}: there are {vocab_size} token ids, from 0 on")


def _flat(value: Any) -> Iterator[Any]:
    """Yields the ids of an option: one, a list, lists of lists, or the keys of a mapping, whose keys may be tuples."""
    if isinstance(value, list | tuple | Mapping):
        for part in value:
            yield from _flat(part)
    elif value is not None:
        yield plain(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 1


def _are_texts(value: Any) -> bool:
    texts = [value] if isinstance(value, str) else value
    return isinstance(texts, list | tuple) and all(isinstance(text, str) and text for text in texts)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_bias(value: Any) -> bool:
    return isinstance(value, Mapping) and all(str(index).isdecimal() and _is_number(by) for index, by in value.items())


def _are_functions(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(callable(function) for function in value)


def _are_lists(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(ids, list | tuple) and ids for ids in value)


def _are_ids(value: Any) -> bool:
    ids = [value] if isinstance(value, int) else value
    return isinstance(ids, list | tuple) and all(isinstance(index, int) and index >= 0 for index in ids)


_IDS: tuple[str, ...] = ("eos_token_id", "pad_token_id", "logit_bias", "suppress_tokens", "begin_suppress_tokens")
_IDS += ("bad_words_ids", "sequence_bias")
"""Options whose values are token ids."""

_VALUES: dict[str, tuple[Callable[[Any], bool], str]] = {
    **dict.fromkeys(("presence_penalty", "frequency_penalty"), (_is_number, "a number")),
    "logit_bias": (_is_bias, "a number for each of some token ids"),
    "eos_token_id": (_are_ids, "a token id, or a list of them"),
    **dict.fromkeys(
        ("no_repeat_context_ngram_size", "min_new_tokens", "min_length", "no_repeat_ngram_size"),
        (lambda value: isinstance(value, int) and (value == 0 or _is_count(value)), "a whole number of at least 0"),
    ),
    "do_sample": (lambda value: value in (0, 1), "true or false"),
    **dict.fromkeys(
        ("max_new_tokens", "max_length", "num_beams", "num_return_sequences", "candidates"),
        (_is_count, "a whole number of at least 1"),
    ),
    "prefix_allowed_tokens_fn": (callable, "a function"),
    **dict.fromkeys(("logits_processor", "stopping_criteria"), (_are_functions, "a list of functions")),
    "bad_words_ids": (_are_lists, "a list of lists of token ids, none of them empty"),
    "seed": (lambda value: value == 0 or (_is_count(value) and value < 2**63), "a whole number from 0 to 2**63 - 1"),
    "stop_strings": (_are_texts, "a text, or a list of texts, none of them empty"),
    "cut_long_turn": (lambda value: isinstance(value, bool), "true or false"),
    "rerank": (
        lambda value: isinstance(value, NextTurnHead) or value in RERANK,
        " or ".join(RERANK) + ", or a NextTurnHead",
    ),
    **dict.fromkeys(
        ("mmi_lambda", "repeat_weight", "reward_weight"),
        (lambda value: _is_number(value) and value >= 0, "a number of at least 0"),
    ),
    "reply_as": (lambda value: isinstance(value, str) and value.strip() != "", "a speaker's name"),
}
