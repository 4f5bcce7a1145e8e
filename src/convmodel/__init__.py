"""convmodel: multi-turn conversation models that their users own.

The public names are loaded when they are first used: importing convmodel does not import torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from convmodel.conversation import Conversation as Conversation
    from convmodel.data.importing.exports.installed import ExportReader as ExportReader
    from convmodel.data.importing.exports.messages import Chat as Chat
    from convmodel.data.importing.exports.messages import Message as Message
    from convmodel.data.reading.problems import Problems as Problems
    from convmodel.data.reading.reader import ConversationReader as ConversationReader
    from convmodel.errors import ConvModelError as ConvModelError
    from convmodel.evaluation.custom_metric import ResponseMetric as ResponseMetric
    from convmodel.evaluation.custom_metric import TurnMetric as TurnMetric
    from convmodel.evaluation.likelihood import EvaluationResult as EvaluationResult
    from convmodel.evaluation.response_metrics import Exchange as Exchange
    from convmodel.evaluation.turn_statistics import TurnStatistics as TurnStatistics
    from convmodel.generation.output import ConversationModelOutput as ConversationModelOutput
    from convmodel.generation.session import ChatSession as ChatSession
    from convmodel.layout.tokenizer import ConversationTokenizer as ConversationTokenizer
    from convmodel.layout.vocabulary import train_vocabulary as train_vocabulary
    from convmodel.model import ConversationModel as ConversationModel
    from convmodel.training.config import FitConfig as FitConfig
    from convmodel.training.fit_result import FitResult as FitResult

_MODULES = {
    "Chat": "data.importing.exports.messages",
    "ChatSession": "generation.session",
    "ConvModelError": "errors",
    "Conversation": "conversation",
    "ConversationModel": "model",
    "ConversationModelOutput": "generation.output",
    "ConversationReader": "data.reading.reader",
    "ConversationTokenizer": "layout.tokenizer",
    "EvaluationResult": "evaluation.likelihood",
    "Exchange": "evaluation.response_metrics",
    "ExportReader": "data.importing.exports.installed",
    "FitConfig": "training.config",
    "FitResult": "training.fit_result",
    "Message": "data.importing.exports.messages",
    "Problems": "data.reading.problems",
    "ResponseMetric": "evaluation.custom_metric",
    "TurnMetric": "evaluation.custom_metric",
    "TurnStatistics": "evaluation.turn_statistics",
    "train_vocabulary": "layout.vocabulary",
}
__all__ = list(_MODULES)


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return getattr(import_module(f"convmodel.{_MODULES[name]}"), name)
    raise AttributeError(f"module 'convmodel' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
