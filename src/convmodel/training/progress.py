"""The progress display of a fine-tuning run.

Owns: a progress bar in a terminal, log lines elsewhere, and the training speed. Does not know how metrics are computed.
"""

import logging
import math
import time
from collections.abc import Sequence
from typing import Any

from transformers import TrainerCallback

from convmodel.data.progress import ProgressBar, console
from convmodel.training.units import duration

logger = logging.getLogger(__name__)

_WORSE = 0.5  # nats per token; far more than the noise of a few batches
_LOG_SECONDS = 10.0  # between log lines about training


class FitProgress(TrainerCallback):
    """Shows steps, loss, perplexity, speed, validations and the time left, on standard error."""

    def __init__(self, *, at_most: bool = False) -> None:
        """Prepares the display; `at_most`: the run may end before its last step."""
        self._at_most = "at most " if at_most else ""
        self._bar: ProgressBar | None = None
        self._shown: dict[str, str] = {}
        self._first_step = 0
        self._began = 0.0
        self._logged_at = -math.inf
        self._pending: tuple[int, str] | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Opens the bar, at the step from which a run resumes."""
        self._first_step, self._began = state.global_step, time.monotonic()
        if state.is_world_process_zero and console.is_terminal:
            self._bar = ProgressBar(
                "fit, at most" if self._at_most else "fit",
                state.max_steps,
                unit="steps",
                completed=state.global_step,
                per_second="tokens/s",
            )
            self._bar.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Moves the bar."""
        if self._bar is not None:
            self._bar.update(state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Shows the metrics in the bar, or logs them."""
        if not state.is_world_process_zero:
            return
        training, validation = _training(logs), _validation(logs)
        if self._bar is not None:
            self._shown |= {name: text for name, text in (training | validation).items() if name != "speed"}
            self._bar.update(note=_joined(self._shown), speed=logs.get("tokens_per_second"))
            return
        if training:
            self._pending = state.global_step, f"{_joined(training)}{self._left(state)}"
        if validation:
            if self._pending is not None and self._pending[0] < state.global_step:
                self._log(state)
            loss = f"{self._pending[1]}, " if self._pending is not None else ""
            self._pending = state.global_step, f"{loss}{_joined(validation)}"
        if validation or time.monotonic() - self._logged_at >= _LOG_SECONDS:
            self._log(state)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Closes the bar, or logs the last metrics."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        self._log(state)

    def _log(self, state: Any) -> None:
        if self._pending is not None:
            step, metrics = self._pending
            logger.info("step %d of %s%d: %s", step, self._at_most, state.max_steps, metrics)
            self._logged_at, self._pending = time.monotonic(), None

    def _left(self, state: Any) -> str:
        """Estimates the time left from this process's own steps; a run may resume on another machine."""
        done, left = state.global_step - self._first_step, state.max_steps - state.global_step
        if done <= 0 or left <= 0:
            return ""
        return f", {self._at_most}{duration((time.monotonic() - self._began) / done * left)} left"


class Pace:
    """Measures how many tokens per second are trained, without the time of validations."""

    def __init__(self) -> None:
        self.begin(0)

    def begin(self, tokens: int) -> None:
        """Starts the clock, after this many tokens."""
        self._tokens, self._at = tokens, time.perf_counter()

    def pause(self, seconds: float) -> None:
        """Excludes the seconds since the last update."""
        self._at += seconds

    def since_last(self, tokens: int) -> float:
        """Returns the tokens per second since the last call, given the number of tokens so far."""
        now = time.perf_counter()
        speed = (tokens - self._tokens) / max(now - self._at, 1e-9)
        self._tokens, self._at = tokens, now
        return speed


def worsening(history: Sequence[dict[str, float]], vocabulary: int) -> str:
    """Describes a run that ended with a higher loss than it began with, or than guessing has; empty for a good run.

    Example:
        >>> worsening([{"loss": 3.5}, {"loss": 71.25}], vocabulary=50257)
        'the loss rose from 3.500 to 71.250'
        >>> worsening([{"loss": 40.0}], vocabulary=50257)
        'the loss is 40.000, while guessing has 10.825'
        >>> worsening([{"loss": 3.5}, {"loss": 3.55}], vocabulary=50257)
        ''
    """
    for name, label in (("eval_loss", "validation loss"), ("loss", "loss")):
        losses = [log[name] for log in history if name in log]
        if losses and losses[-1] > losses[0] + _WORSE:
            return f"the {label} rose from {losses[0]:.3f} to {losses[-1]:.3f}"
        if losses and losses[-1] > math.log(vocabulary) + _WORSE:
            return f"the {label} is {losses[-1]:.3f}, while guessing has {math.log(vocabulary):.3f}"
    return ""


def _training(logs: dict[str, Any]) -> dict[str, str]:
    """Formats the metrics of a training log by name; a run's last log, of its averages, has none of them."""
    shown = {}
    if "loss" in logs:
        shown["loss"] = f"loss {logs['loss']:.3f}"
        if math.isfinite(logs.get("perplexity", math.inf)):
            shown["perplexity"] = f"perplexity {_short(logs['perplexity'])}"
        if "reward_margin" in logs:
            shown["margin"] = f"reward margin {logs['reward_margin']:.3f}"
        if "tokens_per_second" in logs:
            shown["speed"] = f"{logs['tokens_per_second']:,.0f} tokens per second"
    return shown


def _validation(logs: dict[str, Any]) -> dict[str, str]:
    if "eval_perplexity" not in logs:
        return {}
    return {"validation": f"validation perplexity {_short(logs['eval_perplexity'])}"}


def _joined(metrics: dict[str, str]) -> str:
    return ", ".join(metrics.values())


def _short(perplexity: float) -> str:
    return f"{perplexity:.1f}" if perplexity < 1000 else f"{perplexity:,.0f}"
