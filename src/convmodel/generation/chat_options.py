"""The options of a chat: those that were given, in front of the model's own and the defaults.

Owns: which of them apply, and which values they have. Does not know turns.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from convmodel.generation.defaults import chat_candidates, chat_sampling
from convmodel.generation.engine.sampling import with_defaults
from convmodel.generation.options import GenerationOptions, given_options, read_options, warn_once
from convmodel.generation.respond import beyond_engine, is_for_engine
from convmodel.hf_model.generation_config import PENALTIES, SAMPLING_OPTIONS
from convmodel.layout.tokenizer import ConversationTokenizer

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def chat_options(
    hf_model: "PreTrainedModel", tokenizer: ConversationTokenizer, given: dict[str, Any]
) -> GenerationOptions:
    """Returns the options of a chat: those given, and in their place the model's own sampling and candidates.

    Raises:
        ConfigError: If an option does not exist or makes no sense.
    """
    given = given_options(given)
    decide = {"do_sample", "num_beams"} & given.keys()
    sampling = {} if decide or given.get("temperature") == 0 else chat_sampling(hf_model)
    # A turn is never empty, so the first token must not end it.
    wanted = {"min_new_tokens": 1} | sampling | given
    candidates = chat_candidates(hf_model)
    if candidates and wanted.get("do_sample") and not _DECIDE_CANDIDATES & wanted.keys():
        options = read_options(hf_model, tokenizer, candidates | wanted)
        if is_for_engine(hf_model, options):
            return options
        warn_once(
            f"the model asks for the best of {options.candidates} responses in chats, but only one is generated: the "
            f"engine does not support {beyond_engine(hf_model, options)}"
        )
    return read_options(hf_model, tokenizer, wanted)


_DECIDE_CANDIDATES = {"candidates", "rerank", "num_beams", "num_return_sequences"}
"""Options with which a model's own number of candidates does not apply."""


def chat_settings(hf_model: "PreTrainedModel", options: GenerationOptions, given: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the values of the usual options of a chat, and of others that are given or that the model's config sets.

    Args:
        hf_model: The model.
        options: The options in use.
        given: Those of the caller among them.

    Returns:
        The values, defaults included; None for an option that has no effect.
    """
    values = SAMPLING_OPTIONS | PENALTIES | with_defaults(hf_model, options.hf)
    samples = bool(values.get("do_sample"))
    settings = {name: values[name] if samples else None for name in ("temperature", "top_p", "top_k")}
    settings |= {name: values[name] for name in ("max_new_tokens", "repetition_penalty")}
    settings |= {"do_sample": samples, "seed": options.seed, "candidates": options.candidates}
    if options.candidates > 1:
        settings["repeat_weight"] = options.repeat_weight
        if options.reward_weight:
            settings["reward_weight"] = options.reward_weight
    if options.rerank == "mmi":
        settings["mmi_lambda"] = options.mmi_lambda
    effective = (SAMPLING_OPTIONS if samples else {}) | PENALTIES
    others = {name: values[name] for name, off in effective.items() if name not in settings and values[name] != off}
    return settings | others | {name: value for name, value in given.items() if settings.get(name) is None}
