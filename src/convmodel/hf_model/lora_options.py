"""The names of LoRA's options, apart from LoRA itself, so that checking a setting does not import torch."""

from __future__ import annotations

LORA_OPTIONS = frozenset(
    {"r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "use_rslora", "use_dora"}
    | {"layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern"}
)
"""Options of peft's `LoraConfig` that `lora` takes: those that neither change the base nor name it."""
