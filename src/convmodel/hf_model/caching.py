"""Which models keep nothing of earlier tokens but keys and values.

Owns: that decision, for a cache that is filled once and continued in several ways; and by which name a cache is given.
"""

import inspect
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import transformers
from transformers.cache_utils import DynamicCache, DynamicLayer, DynamicSlidingWindowLayer

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

_DISTANCES = frozenset({"bloom", "mpt"})
"""Model types without positions, which attend by distance."""

_SHIFTED_MASK = frozenset({"git"})
"""Model types that expect an image in the cache, and put its columns before the mask of padding, image or not."""


_OWN_CACHE = frozenset({"flaubert", "xlm"})
"""Model types whose argument `cache` takes something else, in transformers before 5.24, too."""

CACHE_ARGUMENTS = ("past_key_values", "cache")
"""The argument of a forward pass that takes a cache: before transformers 5.24, and since."""


def cache_argument(hf_model: "PreTrainedModel") -> str | None:
    """Returns the name of the argument by which a model takes a cache; None if it takes none."""
    if hf_model.config.model_type in _OWN_CACHE:
        return None
    parameters = inspect.signature(hf_model.forward).parameters
    return next((name for name in CACHE_ARGUMENTS if name in parameters), None)


def cache_among(arguments: Mapping[str, Any]) -> Any:
    """Returns the cache among the arguments of a forward pass; None if there is none."""
    return next((arguments[name] for name in CACHE_ARGUMENTS if arguments.get(name) is not None), None)


def model_kind(hf_model: "PreTrainedModel") -> str:
    """Names the type of a model and the version of transformers, on which it depends whether it can be cached."""
    return f"{hf_model.config.model_type} in transformers {transformers.__version__}"


def can_be_cached(hf_model: "PreTrainedModel") -> bool:
    """Returns whether the state of a model is only keys and values, and later tokens do not change them.

    State-space models also have a recurrent state, some old models take no cache, some (BART) count positions from
    the beginning of the cache, padding included, or mask padding elsewhere (GIT), and some rotary embeddings
    (longrope, dynamic) change the keys of earlier positions when a sequence becomes long.
    """
    config = hf_model.config.get_text_config(decoder=True)
    rotary = str(getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None))
    parameters = inspect.signature(hf_model.forward).parameters
    if config.is_encoder_decoder or config.model_type in _SHIFTED_MASK or cache_argument(hf_model) is None:
        return False
    if "position_ids" not in parameters and config.model_type not in _DISTANCES:
        return False
    return not any(kind in rotary for kind in ("longrope", "dynamic")) and has_only_keys_and_values(hf_model.config)


def has_only_keys_and_values(config: "PretrainedConfig") -> bool:
    """Returns whether the cache that transformers makes for a config has no layer with a recurrent state."""
    layers = DynamicCache(config=config).layers
    return bool(layers) and all(type(layer) in (DynamicLayer, DynamicSlidingWindowLayer) for layer in layers)
