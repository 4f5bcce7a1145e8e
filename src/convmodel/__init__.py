"""convmodel: multi-turn conversation models that their users own.

The public names, loaded when first used: importing convmodel does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convmodel.conversation import Conversation
    from convmodel.generation.session import ChatSession
    from convmodel.layout.tokenizer import ConversationTokenizer
    from convmodel.model import ConversationModel
    from convmodel.training.config import FitConfig

__all__ = ["ChatSession", "Conversation", "ConversationModel", "ConversationTokenizer", "FitConfig"]

_HOMES = {
    "ChatSession": "convmodel.generation.session",
    "Conversation": "convmodel.conversation",
    "ConversationModel": "convmodel.model",
    "ConversationTokenizer": "convmodel.layout.tokenizer",
    "FitConfig": "convmodel.training.config",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'convmodel' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
