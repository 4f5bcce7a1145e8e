"""The process of an improvement: `python -m convmodel improve ...`.

Owns: starting it with a lower priority than the server's, whether it still runs, which a restarted server finds out
too, stopping it, and reading the files that it writes. Does not know which model is served.
"""

import logging
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from convmodel.conversation import PINNED_ROLES, Conversation
from convmodel.data.reading.reader import ConversationReader
from convmodel.errors import ConfigError, ConvModelError, SaveError
from convmodel.files.atomic import lock
from convmodel.training.improvement import HELD_OUT, HELD_OUT_FILE
from convmodel.training.metrics_reader import METRICS_FILE, Metrics, Point, is_finite, read_metrics

logger = logging.getLogger(__name__)

COMMAND = (sys.executable, "-m", "convmodel", "improve")

NICENESS = 10  # added to the server's: responses go before training

_LOCK_SECONDS = 2.0  # to wait for the last processes of a run that was stopped
_POINTS = 200  # of a curve
_LONGEST_ERROR = 500  # characters
_LOG_TAIL = 2**16  # bytes of the log that are searched for the error


class ImprovementProcess:
    """A process that writes its log to a file, and holds the file's lock as long as it runs."""

    def __init__(self, log: Path, pid: int = 0) -> None:
        """Finds the process that an earlier server started, if it still runs; `start` starts a new one."""
        self._log = log
        self.pid = pid
        self._process: subprocess.Popen[bytes] | None = None

    def start(self, command: Sequence[str]) -> None:
        """Starts the process.

        Raises:
            SaveError: If its log cannot be written, or it cannot be started.
        """
        try:
            with self._log.open("ab") as file:
                # The process inherits the lock with its standard error, and so do processes that it starts.
                end = time.monotonic() + _LOCK_SECONDS
                while not (is_free := lock(file.fileno())) and time.monotonic() < end:
                    time.sleep(0.05)
                if not is_free:
                    fix = f"end its process, {self.pid}" if self.pid > 0 else "wait until it has ended"
                    raise SaveError(f"an earlier improvement still writes {self._log}: {fix}")
                file.truncate(0)
                self._process = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=file, start_new_session=True
                )
        except SaveError:
            raise
        except OSError as error:
            raise SaveError(f"the improvement cannot be started: {error}") from error
        self.pid = self._process.pid
        if hasattr(os, "setpriority"):
            with suppress(OSError):  # it has ended already
                os.setpriority(os.PRIO_PROCESS, self.pid, os.getpriority(os.PRIO_PROCESS, 0) + NICENESS)

    @property
    def running(self) -> bool:
        """Whether it still runs."""
        if self._process is not None:
            return self._process.poll() is None
        if not self._log.exists():
            return False
        with self._log.open("ab") as file:
            return not lock(file.fileno())

    def wait(self, seconds: float) -> None:
        """Waits for its end, but not longer than some seconds."""
        end = time.monotonic() + seconds
        while self.running and time.monotonic() < end:
            time.sleep(0.05)

    def stop(self) -> None:
        """Requests its end: it finishes its step and saves a checkpoint."""
        if self.running and self.pid > 0:
            with suppress(OSError):  # it has ended meanwhile: each system has an error of its own
                os.kill(self.pid, signal.SIGTERM)

    @property
    def own(self) -> bool:
        """Whether this server has started it, and not an earlier one."""
        return self._process is not None

    @property
    def failed(self) -> bool:
        """Whether it has ended with an error; False for a process of an earlier server, of which that is unknown."""
        return self._process is not None and self._process.poll() not in (None, 0)


def last_error(log: Path) -> str:
    """Returns the last line of a log that has text, without colours and without what a progress bar overwrote."""
    try:
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - _LOG_TAIL))
            text = file.read().decode(errors="replace")
    except OSError:
        text = ""
    text = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)
    lines = [part for line in text.split("\n") if (part := line.rstrip("\r").rpartition("\r")[2].strip())]
    message = lines[-1] if lines else "the process ended without a message"
    return message if len(message) <= _LONGEST_ERROR else message[: _LONGEST_ERROR - 1] + "…"


def read_contexts(folder: Path, *, takes_system: bool) -> list[dict[str, Any]]:
    """Returns the messages and the next speaker of conversations that an improvement did not train on.

    Those with system messages are left out for a model that takes none.
    """
    path = folder / HELD_OUT_FILE
    try:
        status = path.stat()
    except OSError:
        return []
    return [
        {"context": conversation.to_messages()[:-1], "responder": conversation.turn_speakers[-1]}
        for conversation in _read_held_out(path, status.st_size, status.st_mtime_ns)
        if takes_system or PINNED_ROLES.isdisjoint(conversation.turn_speakers)
    ]


@lru_cache(maxsize=4)
def _read_held_out(path: Path, size: int, changed: int) -> list[Conversation]:
    """Reads conversations with a context; the size and time of the file make sure that a changed one is read again."""
    try:
        conversations = [*ConversationReader(path, on_error="skip")]
    except ConvModelError as error:
        logger.warning("there are no conversations to compare the models on: %s", error)
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
    perplexities = _curve(validations, "eval_perplexity")
    return {
        "step": points[-1]["step"] if points else 0,
        "steps": begin.get("steps") if isinstance(begin.get("steps"), int) else None,
        "seconds": next((point["seconds"] for point in reversed(points) if point.get("seconds") is not None), None),
        "losses": _curve(train, "loss"),
        "perplexities": perplexities,
        "allowed_perplexity": _allowed(begin, perplexities),
        "problem": "",
    }


def _allowed(begin: Point, perplexities: Sequence[tuple[int, float]]) -> float | None:
    """Returns the perplexity above which the run stops, known once the model was validated before its first step."""
    if not perplexities or perplexities[0][0] != 0:
        return None
    config = begin.get("config")
    regression: Any = config.get("max_regression") if isinstance(config, dict) else None
    return perplexities[0][1] * (1 + regression) if is_finite(regression) else None


def _curve(points: Sequence[Point], name: str) -> list[tuple[int, float]]:
    """Returns the steps and the finite values of a metric, thinned out evenly if they are many; the last one stays."""
    values = [(int(point["step"]), float(point[name])) for point in points if is_finite(point.get(name))]
    every = -(-len(values) // _POINTS) or 1
    return values[::-1][::every][::-1]
