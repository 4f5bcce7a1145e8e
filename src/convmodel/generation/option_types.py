"""The options of `generate` with their types, for editors and type checkers.

Owns: the types. `options` owns which options there are, `option_values` which values they may have.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from convmodel.hf_model.next_turn import NextTurnHead


class GenerateOptions(TypedDict, total=False):
    """The options of `ConversationModel.generate`: convmodel's own, and those of transformers' `generate`."""

    assistant_confidence_threshold: float | None
    assistant_early_exit: int | None
    assistant_ensemble_weight: float | None
    assistant_lookbehind: int | None
    assistant_model: Any
    bad_words_ids: Sequence[Sequence[int]] | None
    begin_suppress_tokens: Sequence[int] | None
    bos_token_id: int | None
    cache_config: Any
    cache_implementation: str | None
    candidates: int | None
    compile_config: Any
    continuous_batching_config: Any
    cut_long_turn: bool | None
    decoder_start_token_id: int | Sequence[int] | None
    disable_compile: bool | None
    diversity_penalty: float | None
    do_sample: bool | None
    early_stopping: bool | str | None
    encoder_no_repeat_ngram_size: int | None
    encoder_repetition_penalty: float | None
    eos_token_id: int | Sequence[int] | None
    epsilon_cutoff: float | None
    eta_cutoff: float | None
    exponential_decay_length_penalty: Any
    forced_bos_token_id: int | None
    forced_eos_token_id: int | Sequence[int] | None
    frequency_penalty: float | None
    grammar: str | None
    guidance_scale: float | None
    is_assistant: bool | None
    json_schema: Any
    length_penalty: float | None
    logit_bias: Mapping[int, float] | None
    logits_processor: Any
    low_memory: bool | None
    max_cache_len: int | None
    max_length: int | None
    max_matching_ngram_size: int | None
    max_new_tokens: int | None
    max_time: float | None
    min_length: int | None
    min_new_tokens: int | None
    min_p: float | None
    mmi_lambda: float | None
    negative_prompt_attention_mask: Any
    negative_prompt_ids: Any
    no_repeat_context_ngram_size: int | None
    no_repeat_ngram_size: int | None
    num_assistant_tokens: int | None
    num_assistant_tokens_schedule: str | None
    num_beams: int | None
    num_return_sequences: int | None
    output_attentions: bool | None
    output_hidden_states: bool | None
    output_logits: bool | None
    output_scores: bool | None
    pad_token_id: int | None
    prefill_chunk_size: int | None
    prefix_allowed_tokens_fn: Callable[[int, Any], list[int]] | None
    presence_penalty: float | None
    prompt_lookup_num_tokens: int | None
    regex: str | None
    remove_invalid_values: bool | None
    renormalize_logits: bool | None
    repetition_penalty: float | None
    repeat_weight: float | None
    reply_as: str | None
    rerank: "str | NextTurnHead | None"
    return_dict_in_generate: bool | None
    reward_weight: float | None
    seed: int | None
    sequence_bias: Any
    speculation_type: str | None
    stop_strings: str | Sequence[str] | None
    stopping_criteria: Any
    suppress_tokens: Sequence[int] | None
    synced_gpus: bool | None
    target_lookbehind: int | None
    temperature: float | None
    token_healing: bool | None
    top_h: float | None
    top_k: int | None
    top_p: float | None
    transformers_version: str | None
    typical_p: float | None
    use_cache: bool | None
    use_mtp: bool | None
    watermarking_config: Any
