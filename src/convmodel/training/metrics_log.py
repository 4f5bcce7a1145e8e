"""The file in which a fit keeps what it measures, `metrics.jsonl` in the model's folder.

Owns: writing it, one line a measurement, so that a killed and resumed fit has the lines of an uninterrupted one.
What a line says and how it is read is in `convmodel.training.metrics_reader`.
"""

import json
import logging
import math
import os
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from transformers import TrainerCallback

from convmodel.files.atomic import staged
from convmodel.files.json_lines import append_line
from convmodel.training.metrics_reader import METRICS_FILE, TRAINING, VALIDATION, read_lines

logger = logging.getLogger(__name__)

_JSON: dict[str, Any] = {"default": str, "ensure_ascii": True}  # settings may hold paths, in any encoding


class MetricsFile(TrainerCallback):
    """Appends what `Trainer` logs to `metrics.jsonl`; on the world's first process only.

    A fit that begins replaces the file; one whose state says that updates were done already continues it.

    Args:
        folder: The model's folder; made if missing.
        begin: What is known before the first update, for the file's first line.

    Raises:
        SaveError: If the file cannot be written, at the event for which it should have been.
    """

    def __init__(self, folder: str | os.PathLike[str], begin: Mapping[str, Any]) -> None:
        self._path = Path(folder, METRICS_FILE)
        self._first = json.dumps({"event": "begin", **begin}, **_JSON)
        self._started = time.perf_counter()
        self._opened = False
        self._last = {"loss": -1, "eval_loss": -1}

    def continue_from(self, step: int) -> None:
        """Goes on with the file of an earlier process, and cuts off what will be measured again.

        `on_train_begin` calls it for a state with updates; calling it before that, on the first process, does as well.

        Args:
            step: The updates that the checkpoint has.
        """
        found = [*read_lines(self._path, self._warn)] if self._path.exists() else []
        kept = [(line, record) for line, record in found if "event" in record or record["step"] <= step]
        lines = [line for line, _ in kept]
        if not any(record.get("event") == "begin" for _, record in kept):
            lines.insert(0, self._first)
        points = [record for _, record in kept if "event" not in record]
        for kind in self._last:
            self._last[kind] = max((point["step"] for point in points if kind in point), default=-1)
        # The seconds between the checkpoint and the kill are lost, as the updates are.
        spent = max((point.get("seconds") or 0.0 for point in points), default=0.0)
        self._started = time.perf_counter() - spent
        self._replace(lines)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begins the file, or continues it."""
        if not state.is_world_process_zero or self._opened:
            return
        self._started = time.perf_counter()
        if state.global_step:
            self.continue_from(state.global_step)
        else:
            self._replace([self._first])

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Writes what was measured; `Trainer`'s last words, which measure nothing new, are not."""
        if not state.is_world_process_zero:
            return
        for kind, names in (("loss", TRAINING), ("eval_loss", VALIDATION)):
            if kind not in logs or state.global_step <= self._last[kind]:
                continue
            self._last[kind] = state.global_step
            measured = {name: _number(logs[name]) for name in ("epoch", *names) if name in logs}
            seconds = round(time.perf_counter() - self._started, 3)
            now = datetime.now(UTC).isoformat(timespec="seconds")
            record = {"step": state.global_step, **measured, "seconds": seconds, "time": now}
            append_line(self._path, record, fix="make room and resume", **_JSON)

    def _replace(self, lines: list[str]) -> None:
        with staged(self._path.parent) as stage:
            (stage / self._path.name).write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", newline="\n")
        self._opened = True

    @staticmethod
    def _warn(problem: str) -> None:
        logger.warning("%s; the line is left out", problem)


def _number(value: Any) -> int | float | None:
    """Makes a plain number of one; JSON has no infinity and no NaN."""
    number: int | float = value.item() if hasattr(value, "item") else value
    return number if number is not None and math.isfinite(number) else None
