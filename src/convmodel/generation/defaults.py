"""Default sampling settings of conversations: of sessions, in the terminal, on the chat page and in self-chat."""

from typing import Any

TEMPERATURE, TOP_P = 0.8, 0.95

CHAT_SAMPLING = {"do_sample": True, "temperature": TEMPERATURE, "top_p": TOP_P, "top_k": 0}
"""The same as options of `generate`."""


def chat_sampling(hf_model: Any) -> dict[str, Any]:
    """Returns the options of sampling for a chat: the model's own if its generation config has some, else ours."""
    own = getattr(hf_model, "generation_config", None)
    if not getattr(own, "do_sample", False):
        return dict(CHAT_SAMPLING)
    neutral = {"temperature": 1.0, "top_p": 1.0, "top_k": 0}
    given = {name: getattr(own, name, None) for name in neutral}
    return {"do_sample": True} | {name: neutral[name] if value is None else value for name, value in given.items()}
