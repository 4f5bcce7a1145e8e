"""The names of LoRA's options, in a module of their own so that checking settings does not import torch."""

from typing import Any

LORA_OPTIONS = frozenset(
    {"r", "lora_alpha", "lora_dropout", "target_modules", "exclude_modules", "use_rslora", "use_dora"}
    | {"layers_to_transform", "layers_pattern", "rank_pattern", "alpha_pattern"}
)
"""Options of peft's `LoraConfig` that `lora` accepts: those that neither change nor name the base model."""


def lora_options(options: Any) -> dict[str, Any]:
    """Returns the options of a peft config that define the adapters, as JSON values."""
    options_set = {name: value for name, value in options.to_dict().items() if name in LORA_OPTIONS}
    defaults = type(options)().to_dict()
    always = ("r", "lora_alpha")  # convmodel has other defaults for them
    kept = {name: value for name, value in options_set.items() if name in always or value != defaults.get(name)}
    return {name: sorted(value) if isinstance(value, set) else value for name, value in kept.items()}
