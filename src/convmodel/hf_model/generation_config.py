"""The generation config that a conversation model is saved with.

Owns: which settings of a checkpoint's `generation_config.json` are kept: sampling options are, settings that end a
response are not.
"""

from typing import TYPE_CHECKING

from convmodel.hf_model.embedding import fit_embedding
from convmodel.layout.tokenizer import ConversationTokenizer

if TYPE_CHECKING:
    from transformers import GenerationConfig, PreTrainedModel

SAMPLING_OPTIONS = {
    "temperature": 1.0,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": None,
    "typical_p": 1.0,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
}
"""Options that change the distribution to sample from, with the value that has no effect, in transformers' order."""

_KEPT = ("do_sample", "repetition_penalty", "no_repeat_ngram_size", "chat")


def match_tokenizer(hf_model: "PreTrainedModel", tokenizer: ConversationTokenizer) -> None:
    """Gives a model the embedding and the generation config of a tokenizer, in place.

    Raises:
        ModelLoadError: If the two do not match.
    """
    fit_embedding(hf_model, tokenizer)
    hf_model.generation_config = sampling_defaults(hf_model.generation_config, tokenizer)


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
