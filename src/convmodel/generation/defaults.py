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
    from convmodel.hf_model.generation_config import SAMPLING_OPTIONS  # imports torch, which commands load later

    given = {name: getattr(own, name, None) for name in CHAT_SAMPLING if name in SAMPLING_OPTIONS}
    values = {name: SAMPLING_OPTIONS[name] if value is None else value for name, value in given.items()}
    return {"do_sample": True} | values
