"""convmodel: multi-turn conversation models that their users own.

The public names are loaded when they are first used: importing convmodel does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convmodel.conversation import Conversation
    from convmodel.data.reading.reader import ConversationReader
    from convmodel.errors import ConvModelError
    from convmodel.evaluation.likelihood import EvaluationResult
    from convmodel.generation.output import ConversationModelOutput
    from convmodel.generation.session import ChatSession
    from convmodel.layout.tokenizer import ConversationTokenizer
    from convmodel.layout.vocabulary import train_vocabulary
    from convmodel.model import ConversationModel
    from convmodel.training.config import FitConfig
    from convmodel.training.fit import FitResult

__all__ = [
    "ChatSession",
    "ConvModelError",
    "Conversation",
    "ConversationModel",
    "ConversationModelOutput",
    "ConversationReader",
    "ConversationTokenizer",
    "EvaluationResult",
    "FitConfig",
    "FitResult",
    "train_vocabulary",
]

_MODULES = {
    "ChatSession": "generation.session",
    "ConvModelError": "errors",
    "Conversation": "conversation",
    "ConversationModel": "model",
    "ConversationModelOutput": "generation.output",
    "ConversationReader": "data.reading.reader",
    "ConversationTokenizer": "layout.tokenizer",
    "EvaluationResult": "evaluation.likelihood",
    "FitConfig": "training.config",
    "FitResult": "training.fit",
    "train_vocabulary": "layout.vocabulary",
}


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"convmodel.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'convmodel' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
