"""Parameters that clients send without meaning anything by it.

Owns: which values of unsupported parameters change nothing, so that they are no reason to refuse a request.
"""

from collections.abc import Mapping
from typing import Any

_VALUES: dict[str, list[Any]] = {
    "tools": [[]],
    "tool_choice": ["none", "auto"],
    "functions": [[]],
    "function_call": ["none", "auto"],
    "parallel_tool_calls": [True, False],
    "response_format": [{"type": "text"}],
    "modalities": [["text"]],
    "store": [False],
    "background": [False],
    "include": [[]],
    "include_obfuscation": [False],
    "service_tier": ["auto", "default"],
    "annotations": [[]],
    "logprobs": [[]],
    "reasoning": [{}, {"effort": "none"}],
    "reasoning_effort": ["none"],
    "verbosity": ["medium"],
    "suffix": [""],
    "repetition_penalty": [1, 1.0],
    "length_penalty": [1, 1.0],
    "typical_p": [1, 1.0],
    "num_beams": [1],
    "use_beam_search": [False],
    "ignore_eos": [False],
    "min_tokens": [0],
    "stop_token_ids": [[]],
    "skip_special_tokens": [True],
    "add_generation_prompt": [True],
    "provider_specific_fields": [{}],
}


def has_no_effect(name: str, value: Any, body: Mapping[str, Any]) -> bool:
    """Returns whether an unsupported parameter of a body has a value without effect; null in an object has none either.

    Example:
        >>> has_no_effect("tools", [], {}), has_no_effect("store", 0, {}), has_no_effect("best_of", 2, {"n": 2})
        (True, False, True)
    """
    if isinstance(value, Mapping):
        value = {inner: inner_value for inner, inner_value in value.items() if inner_value is not None}
    # The best of all responses that are returned.
    values = [body.get("n") or 1] if name == "best_of" else _VALUES.get(name, ())
    # The types are compared since 0 == False.
    return any(type(value) is type(other) and bool(value == other) for other in values)
