"""Facts about a Hugging Face model's architecture.

Owns: which architectures embed token types, how many positions a model has, and how long windows may be. Does not
load models.
"""

from typing import Any

from convmodel.errors import ConfigError

EMBEDS_TOKEN_TYPES = frozenset(
    {"gpt2", "gpt_bigcode", "gpt_neo", "gptj", "codegen", "openai-gpt", "ctrl"},
)
"""Model types that add an embedding of the token type to each token's embedding; others have no
`token_type_ids`, or use it for something else (Gemma 3, for images)."""


def embeds_token_types(config: Any) -> bool:
    """Returns whether the architecture of a `PretrainedConfig` takes the speaker's index at each position."""
    return getattr(config, "model_type", None) in EMBEDS_TOKEN_TYPES


def positions(config: Any) -> int | None:
    """Returns how many positions the model of a `PretrainedConfig` has; None if the config has no such value."""
    config = config.get_text_config()
    for name in ("max_position_embeddings", "n_positions", "n_ctx", "max_seq_len"):  # the last one is MPT's
        value = getattr(config, name, None)
        if isinstance(value, int) and value > 0:
            return value
    return None


def shared_length(config: Any) -> int | None:
    """Returns up to how many tokens the rows of a batch may have without changing each other; None for any number.

    The rotary embedding "longrope" (Phi-3) turns all rows by other angles as soon as one is longer than this.
    """
    config = config.get_text_config(decoder=True)
    rotary = getattr(config, "rope_parameters", None) or {}
    if "longrope" not in str(rotary):
        return None
    limit = rotary.get("original_max_position_embeddings") or getattr(config, "original_max_position_embeddings", None)
    return int(limit) if limit else None


LONGEST_WINDOW = 1024
"""The default maximum length of a window in tokens, for models with at least as many positions."""

SHORTEST_WINDOW = 4
"""The minimum of `max_length` in tokens: two turns, of a separator and one token each."""


def window_length(config: Any, max_length: int | None = None) -> int:
    """Returns the maximum window length in tokens: `max_length`, or by default the model's positions, at most 1,024.

    Raises:
        ConfigError: If the model has fewer positions than `max_length`, or it is less than `SHORTEST_WINDOW`.
    """
    limit = positions(config)
    if max_length is None:
        return min(limit or LONGEST_WINDOW, LONGEST_WINDOW)
    if max_length < SHORTEST_WINDOW:
        raise ConfigError(f"max_length is {max_length}: it must be at least {SHORTEST_WINDOW} tokens")
    if limit is not None and max_length > limit:
        raise ConfigError(f"max_length is {max_length}, but the model has {limit} positions: lower max_length")
    return max_length
