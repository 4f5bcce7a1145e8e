"""Default sampling settings of conversations: of sessions, in the terminal, on the chat page and in self-chat.

Owns: those of models that name none, and how a model names its own.
"""

from typing import Any

TEMPERATURE, TOP_P = 0.8, 0.95

CHAT_SAMPLING = {"do_sample": True, "temperature": TEMPERATURE, "top_p": TOP_P, "top_k": 0}
"""The same as options of `generate`."""


def chat_sampling(hf_model: Any) -> dict[str, Any]:
    """Returns the options of sampling for a chat: the model's own if its generation config has some, else ours.

    Those in the config's table `chat` come first: they were measured for chats, with the candidates that it names.
    """
    from convmodel.hf_model.generation_config import SAMPLING_OPTIONS  # imports torch, which commands load later

    own = {name: value for name, value in _for_chats(hf_model).items() if name in SAMPLING_OPTIONS}
    return single_response_sampling(hf_model) | own


def single_response_sampling(hf_model: Any) -> dict[str, Any]:
    """Returns the options of sampling where no candidates are drawn, as by programs that a model is exported to."""
    own = getattr(hf_model, "generation_config", None)
    if not getattr(own, "do_sample", False):
        return dict(CHAT_SAMPLING)
    from convmodel.hf_model.generation_config import SAMPLING_OPTIONS

    given = {name: getattr(own, name, None) for name in CHAT_SAMPLING if name in SAMPLING_OPTIONS}
    values = {name: SAMPLING_OPTIONS[name] if value is None else value for name, value in given.items()}
    return {"do_sample": True} | values


def chat_candidates(hf_model: Any) -> dict[str, Any]:
    """Returns how many candidates a model asks for in chats, and how they are ordered; empty if it does not."""
    from convmodel.hf_model.generation_config import CANDIDATE_OPTIONS

    own = _for_chats(hf_model)
    return {name: own[name] for name in CANDIDATE_OPTIONS if name in own} if own.get("candidates", 1) > 1 else {}


def _for_chats(hf_model: Any) -> dict[str, Any]:
    own = getattr(getattr(hf_model, "generation_config", None), "chat", None)
    return own if isinstance(own, dict) else {}
