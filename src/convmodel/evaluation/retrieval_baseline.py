"""The retrieval baseline: the response that followed the most similar training context.

Owns: the index of training contexts, by BM25. Knows no model.
"""

import logging
from collections.abc import Iterable
from importlib import import_module

from convmodel.conversation import Conversation
from convmodel.errors import ConversationError, MissingExtraError
from convmodel.evaluation.word_split import words

COMPARED_TURNS = 2
"""How many of the newest turns of a context are compared."""


def require_bm25s() -> None:
    """Raises a `MissingExtraError` unless bm25s is installed."""
    try:
        import_module("bm25s")
    except ImportError as error:  # also of what it needs
        raise MissingExtraError("the nearest training context needs bm25s", "eval") from error


class NearestContext:
    """Responds with the turn that followed the most similar context of the training data.

    Similar by BM25 over the words of the newest turns. Source: S. Robertson and H. Zaragoza, The Probabilistic
    Relevance Framework: BM25 and Beyond (2009), section 3.

    Example:
        >>> training = [Conversation(["Do you like tea?", "Yes."]), Conversation(["Where do you live?", "Here"])]
        >>> NearestContext(training).respond(Conversation(["And where do you live now?"]))
        'Here'
    """

    def __init__(self, training: Iterable[Conversation]) -> None:
        """Reads the training data into memory.

        Raises:
            MissingExtraError: If bm25s is not installed.
            ConversationError: If no conversation has a response.
        """
        require_bm25s()
        import bm25s

        contexts: list[list[str]] = []
        self._responses: list[str] = []
        for conversation in training:
            for place in range(conversation.pinned + 1, len(conversation.turns)):
                contexts.append(_key(conversation.turns[conversation.pinned : place]))
                self._responses.append(conversation.turns[place])
        if not any(contexts):
            raise ConversationError("the training data has no response: give conversations of two turns or more")
        bm25s.logger.setLevel(logging.WARNING)  # it reports each step on standard error otherwise
        self._index = bm25s.BM25()
        self._index.index(contexts, show_progress=False)

    def respond(self, context: Conversation) -> str:
        """Returns the response to the most similar context, the first of equals."""
        key = _key(context.turns[context.pinned :])
        return self._responses[int(self._index.get_scores(key).argmax())] if key else self._responses[0]


def _key(turns: Iterable[str]) -> list[str]:
    return [word for turn in [*turns][-COMPARED_TURNS:] for word in words(turn)]
