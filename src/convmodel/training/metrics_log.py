"""Writing the metrics of a fit to `metrics.jsonl` in the model's folder.

Owns: writing it, one line per measurement, so that a killed and resumed fit has the lines of an uninterrupted one.
The content of a line, and reading it, is in `convmodel.training.metrics_reader`.
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
from convmodel.training.metrics_reader import METRICS_FILE, PREFERENCE, TRAINING, VALIDATION, read_lines

logger = logging.getLogger(__name__)

_JSON: dict[str, Any] = {"default": str, "ensure_ascii": True}  # settings may hold paths, in any encoding


class MetricsFile(TrainerCallback):
    """Appends what `Trainer` logs to `metrics.jsonl`, on the first process only.

    A new fit replaces the file; a resumed one continues it. `begin` is the content of the file's first line. The event
    that cannot be written raises `SaveError`.
    """

    def __init__(self, folder: str | os.PathLike[str], begin: Mapping[str, Any]) -> None:
        self._path = Path(folder, METRICS_FILE)
        self._first = json.dumps({"event": "begin", **begin}, **_JSON)
        self._started = time.perf_counter()
        self._opened = False
        self._last = {"loss": -1, "eval_loss": -1}

    def continue_from(self, step: int) -> None:
        """Continues the file of an earlier process after a checkpoint of this step.

        Removes the metrics that will be measured again. `on_train_begin` calls it; an earlier call is allowed too.
        """
        all_lines = [*read_lines(self._path, self._warn)] if self._path.exists() else []
        kept = [(line, record) for line, record in all_lines if "event" in record or record["step"] <= step]
        lines = [line for line, _ in kept]
        if not any(record.get("event") == "begin" for _, record in kept):
            lines.insert(0, self._first)
        points = [record for _, record in kept if "event" not in record]
        for kind in self._last:
            self._last[kind] = max((point["step"] for point in points if kind in point), default=-1)
        # The seconds after the checkpoint are lost, as are its steps.
        seconds = max((point.get("seconds") or 0.0 for point in points), default=0.0)
        self._started = time.perf_counter() - seconds
        self._replace(lines)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Starts or continues the file."""
        if not state.is_world_process_zero or self._opened:
            return
        self._started = time.perf_counter()
        if state.global_step:
            self.continue_from(state.global_step)
        else:
            self._replace([self._first])

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Appends the metrics; `Trainer`'s last log, of averages, has no new ones."""
        if not state.is_world_process_zero:
            return
        for kind, names in (("loss", (*TRAINING, *PREFERENCE)), ("eval_loss", VALIDATION)):
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
    """Converts a number to a Python number; JSON has no infinity and no NaN."""
    number: int | float = value.item() if hasattr(value, "item") else value
    return number if number is not None and math.isfinite(number) else None
