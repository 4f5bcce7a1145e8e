"""The command of an improvement, `python -m convmodel improve ...`, and the files that it writes.

Owns: the command, and reading the files. Does not know which model is served.
"""

import logging
import sys
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from convmodel.conversation import DEFAULT_SPEAKERS, PINNED_ROLES, Conversation
from convmodel.data.reading.reader import ConversationReader
from convmodel.errors import ConfigError, ConvModelError
from convmodel.layout.markers import ASSISTANT, TOOL, USER
from convmodel.training.improvement import HELD_OUT, HELD_OUT_FILE
from convmodel.training.metrics_reader import METRICS_FILE, Metrics, Point, is_finite, read_metrics

logger = logging.getLogger(__name__)

COMMAND = (sys.executable, "-m", "convmodel", "improve")

_POINTS = 200  # of a curve


def read_contexts(folder: Path, *, takes_system: bool, by_name: bool) -> list[dict[str, Any]]:
    """Returns the messages and the next speaker of conversations that an improvement did not train on.

    Those with system messages are left out for a model that takes none. For a model that does not distinguish speakers
    `by_name`, the speakers are renamed so that the assistant responds to the user, whoever wrote the last turn; those
    of more than two speakers are left out.
    """
    path = folder / HELD_OUT_FILE
    try:
        status = path.stat()
    except OSError:
        return []
    contexts = [
        _context(conversation) if by_name else _context_of_roles(conversation)
        for conversation in _read_held_out(path, status.st_size, status.st_mtime_ns)
        if takes_system or PINNED_ROLES.isdisjoint(conversation.turn_speakers)
    ]
    return [context for context in contexts if context is not None]


def _context(conversation: Conversation) -> dict[str, Any]:
    return {"context": conversation.to_messages()[:-1], "responder": conversation.turn_speakers[-1]}


def _context_of_roles(conversation: Conversation) -> dict[str, Any] | None:
    """Returns a context as a dialogue of user and assistant; None if more than two speak, or a tool is to respond.

    Whoever spoke last cannot respond: if the last turn is by the same speaker, the other one does.
    """
    speakers, pinned = conversation.turn_speakers, conversation.pinned
    people = [name for name in dict.fromkeys(speakers[pinned:]) if name != TOOL]
    if len(people) > len(DEFAULT_SPEAKERS) or speakers[-1] == TOOL:
        return None
    responder = next((name for name in (speakers[-1], *people) if name != speakers[-2]), None)
    roles = [*speakers[:pinned], *(ASSISTANT if name == responder else USER for name in speakers[pinned:-1])]
    messages = [{"role": role, "content": turn} for role, turn in zip(roles, conversation.turns[:-1], strict=True)]
    return {"context": messages, "responder": ASSISTANT}


@lru_cache(maxsize=4)
def _read_held_out(path: Path, size: int, changed: int) -> list[Conversation]:
    """Reads conversations with a context; the size and time of the file make sure that a changed one is read again."""
    try:
        conversations = [*ConversationReader(path, on_error="skip")]
    except ConvModelError as error:  # which may quote the file
        logger.warning("there are no conversations to compare the models on: %s: %s", path, type(error).__name__)
        return []
    return [one for one in conversations[:HELD_OUT] if len(one.turns) - one.pinned > 1]


class Progress:
    """The progress of a run, from the metrics that it appends to its folder; read again when the file has changed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._seen: tuple[int, int] | None = None
        self._progress: dict[str, Any] = _describe(None)

    def read(self) -> dict[str, Any]:
        """Returns the steps, the curve, and the perplexities of the validations with the highest allowed one."""
        with suppress(OSError):
            status = (self._folder / METRICS_FILE).stat()
            if (status.st_size, status.st_mtime_ns) != self._seen:
                try:
                    self._progress = _describe(read_metrics(self._folder))
                except ConfigError as error:
                    self._progress = _describe(None) | {"problem": str(error)}
                self._seen = (status.st_size, status.st_mtime_ns)
        return self._progress


def _describe(metrics: Metrics | None) -> dict[str, Any]:
    begin = {} if metrics is None else metrics.begin
    train: Sequence[Point] = [] if metrics is None else metrics.train
    validations: Sequence[Point] = [] if metrics is None else metrics.validations
    points = sorted([*train, *validations], key=lambda point: int(point["step"]))
    return {
        "step": points[-1]["step"] if points else 0,
        "steps": begin.get("steps") if isinstance(begin.get("steps"), int) else None,
        "seconds": next((point["seconds"] for point in reversed(points) if point.get("seconds") is not None), None),
        "losses": _curve(train, "loss"),
        "perplexities": _curve(validations, "eval_perplexity"),
        "allowed_perplexity": _allowed(begin, _values(validations, "eval_perplexity")),
        "problem": "",
    }


def _allowed(begin: Point, perplexities: Sequence[tuple[int, float]]) -> float | None:
    """Returns the perplexity above which the run stops, known once the model was validated before its first step.

    As in the run's guard, it is relative to the lowest so far.
    """
    if not perplexities or perplexities[0][0] != 0:
        return None
    config = begin.get("config")
    regression: Any = config.get("max_regression") if isinstance(config, dict) else None
    lowest = min(perplexity for _, perplexity in perplexities)
    return lowest * (1 + regression) if is_finite(regression) else None


def _curve(points: Sequence[Point], name: str) -> list[tuple[int, float]]:
    """Returns the steps and the finite values of a metric, thinned out evenly if they are many; the last one stays."""
    values = _values(points, name)
    every = -(-len(values) // _POINTS) or 1
    return values[::-1][::every][::-1]


def _values(points: Sequence[Point], name: str) -> list[tuple[int, float]]:
    """Returns the steps and the finite values of a metric."""
    return [(int(point["step"]), float(point[name])) for point in points if is_finite(point.get(name))]
