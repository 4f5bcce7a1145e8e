"""The generation config that a conversation model is saved with.

Owns: which settings of a checkpoint's `generation_config.json` are kept: sampling options are, settings that end a
response are not.
"""

from typing import TYPE_CHECKING

from convmodel.layout.tokenizer import ConversationTokenizer

if TYPE_CHECKING:
    from transformers import GenerationConfig

SAMPLING_OPTIONS = ("temperature", "top_k", "top_p", "min_p", "typical_p", "epsilon_cutoff", "eta_cutoff")
"""Options that change the distribution to sample from, in the order in which transformers applies them."""

_KEPT = ("do_sample", "repetition_penalty", "no_repeat_ngram_size")


def sampling_defaults(saved: "GenerationConfig | None", tokenizer: ConversationTokenizer) -> "GenerationConfig":
    """Creates the generation config of a conversation model from that of a checkpoint.

    Only the sampling options are kept. The token layout and the caller decide how a response begins and ends, and the
    decoding strategy: a saved `max_length`, `stop_strings` or `suppress_tokens` would make responses empty or endless.
    """
    from transformers import GenerationConfig

    kept = {name: getattr(saved, name, None) for name in _KEPT if saved is not None}
    if kept.get("do_sample"):
        kept |= {name: getattr(saved, name, None) for name in SAMPLING_OPTIONS}
    stop = tokenizer.stop_token_ids
    return GenerationConfig(
        **{name: value for name, value in kept.items() if value is not None},
        eos_token_id=stop if len(stop) > 1 else stop[0],
        pad_token_id=tokenizer.pad_token_id,
    )
