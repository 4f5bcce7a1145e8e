"""The names of LoRA's options, in a module of their own so that checking settings does not import torch."""

LORA_OPTIONS = frozenset(
    {"r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "use_rslora", "use_dora"}
    | {"layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern"}
)
"""Options of peft's `LoraConfig` that `lora` accepts: those that neither change nor name the base model."""
