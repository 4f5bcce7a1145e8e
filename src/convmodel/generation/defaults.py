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

    for_chats = {name: value for name, value in _for_chats(hf_model).items() if name in SAMPLING_OPTIONS}
    own = getattr(hf_model, "generation_config", None)
    if not getattr(own, "do_sample", False):
        return CHAT_SAMPLING | for_chats
    given = {name: getattr(own, name, None) for name in CHAT_SAMPLING if name in SAMPLING_OPTIONS}
    values = {name: SAMPLING_OPTIONS[name] if value is None else value for name, value in given.items()}
    return {"do_sample": True} | values | for_chats


def all_chat_sampling(hf_model: Any) -> dict[str, Any]:
    """Returns the value of every sampling option and penalty in a chat, for programs that a model is exported to."""
    from convmodel.hf_model.generation_config import PENALTIES, SAMPLING_OPTIONS

    config, off = getattr(hf_model, "generation_config", None), SAMPLING_OPTIONS | PENALTIES
    own = {name: getattr(config, name, None) for name in off}
    return {name: off[name] if value is None else value for name, value in own.items()} | chat_sampling(hf_model)


def chat_candidates(hf_model: Any) -> dict[str, Any]:
    """Returns how many candidates a model asks for in chats, and how they are ordered; empty if it does not.

    `reward_weight` is left out while the model has no reward model: training removes it, and `convmodel reward` makes
    a new one.
    """
    from convmodel.hf_model.generation_config import CANDIDATE_OPTIONS
    from convmodel.hf_model.reward_model import reward_model_of

    own = dict(_for_chats(hf_model))
    if reward_model_of(hf_model) is None:
        own.pop("reward_weight", None)
    return {name: own[name] for name in CANDIDATE_OPTIONS if name in own} if own.get("candidates", 1) > 1 else {}


def _for_chats(hf_model: Any) -> dict[str, Any]:
    own = getattr(getattr(hf_model, "generation_config", None), "chat", None)
    return own if isinstance(own, dict) else {}
