"""The generation config that a conversation model is saved with.

Owns: which settings of a checkpoint's `generation_config.json` are kept: sampling options are, settings that end a
response are not.
"""

from typing import TYPE_CHECKING, Any

from convmodel.errors import ModelLoadError
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

PENALTIES = {"repetition_penalty": 1.0, "no_repeat_ngram_size": 0}
"""Options that make repeated tokens less probable, with the value that has no effect."""

CANDIDATE_OPTIONS = ("candidates", "repeat_weight", "reward_weight", "mmi_lambda")
"""Options of the candidates that a model draws in chats; with sampling options, they may be in the table `chat`."""

_KEPT = ("do_sample", *PENALTIES, "chat")


def match_tokenizer(hf_model: "PreTrainedModel", tokenizer: ConversationTokenizer) -> None:
    """Gives a model the embedding and the generation config of a tokenizer, in place.

    Raises:
        ModelLoadError: If the two do not match, or the checkpoint's settings for chats are invalid.
    """
    fit_embedding(hf_model, tokenizer)
    hf_model.generation_config = sampling_defaults(hf_model.generation_config, tokenizer)


def sampling_defaults(saved: "GenerationConfig | None", tokenizer: ConversationTokenizer) -> "GenerationConfig":
    """Creates the generation config of a conversation model from that of a checkpoint.

    Only the sampling options are kept. The token layout and the caller decide how a response begins and ends, and the
    decoding strategy: a saved `max_length`, `stop_strings` or `suppress_tokens` would make responses empty or endless.

    Raises:
        ModelLoadError: If the settings for chats are invalid.
    """
    from transformers import GenerationConfig

    kept = {name: getattr(saved, name, None) for name in _KEPT if saved is not None}
    if kept.get("do_sample"):
        kept |= {name: getattr(saved, name, None) for name in SAMPLING_OPTIONS}
    _check_chat(kept.get("chat"))
    stop = tokenizer.stop_token_ids
    return GenerationConfig(
        **{name: value for name, value in kept.items() if value is not None},
        eos_token_id=stop if len(stop) > 1 else stop[0],
        pad_token_id=tokenizer.pad_token_id,
    )


def _check_chat(chat: Any) -> None:
    """Raises a `ModelLoadError` unless the table `chat` is missing or has known options with numbers as values."""
    if chat is None:
        return
    fix = "correct it in generation_config.json, or remove it"
    if not isinstance(chat, dict):
        raise ModelLoadError(f'"chat" in the generation config is not a table of options: {fix}')
    for name, value in chat.items():
        if name not in (*SAMPLING_OPTIONS, *CANDIDATE_OPTIONS):
            known = ", ".join((*CANDIDATE_OPTIONS, *SAMPLING_OPTIONS))
            raise ModelLoadError(
                f'"chat" in the generation config has an unknown option {name} (known: {known}): {fix}'
            )
        is_count = name in ("candidates", "top_k")
        if type(value) is not int and (is_count or type(value) is not float):
            what = "a whole number" if is_count else "a number"
            raise ModelLoadError(f'{name} of "chat" in the generation config is not {what}: {fix}')
