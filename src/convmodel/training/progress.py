"""What a fine-tuning run shows while it works.

Owns: a progress bar where a person looks on, log lines elsewhere.
"""

import logging
import math
import sys
import time
from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerCallback

from convmodel.training.units import duration

logger = logging.getLogger(__name__)

_PAUSE = 10.0  # seconds between log lines about training; a log that is kept is read later, not watched


class FitProgress(TrainerCallback):
    """Shows updates, loss, perplexity, speed, validations and the time left, on standard error."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._seen: dict[str, str] = {}
        self._first_step = 0
        self._began = 0.0
        self._said = -math.inf
        self._unsaid: tuple[int, str] | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Opens the bar, at the update from which a resumed run goes on."""
        self._first_step, self._began = state.global_step, time.monotonic()
        if state.is_world_process_zero and sys.stderr.isatty():
            self._bar = tqdm(
                total=state.max_steps, initial=state.global_step, desc="fit", unit="update", dynamic_ncols=True
            )

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Moves the bar."""
        if self._bar is not None:
            self._bar.update(state.global_step - self._bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Shows what was measured."""
        if not state.is_world_process_zero:
            return
        training, validation = _training(logs), _validation(logs)
        if self._bar is not None:
            self._seen |= training | validation
            self._bar.set_postfix_str(_sentence(self._seen))
            return
        if training:
            self._unsaid = state.global_step, f"{_sentence(training)}{self._left(state)}"
        if validation:
            if self._unsaid is not None and self._unsaid[0] < state.global_step:
                self._say(state)
            known = f"{self._unsaid[1]}, " if self._unsaid is not None else ""
            self._unsaid = state.global_step, f"{known}{_sentence(validation)}"
        if validation or time.monotonic() - self._said >= _PAUSE:
            self._say(state)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Closes the bar, or says what was measured last."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
        self._say(state)

    def _say(self, state: Any) -> None:
        if self._unsaid is not None:
            step, sentence = self._unsaid
            logger.info("update %d of %d: %s", step, state.max_steps, sentence)
            self._said, self._unsaid = time.monotonic(), None

    def _left(self, state: Any) -> str:
        """Estimates from this process's own updates; a resumed run may be on another machine than it began on."""
        done, left = state.global_step - self._first_step, state.max_steps - state.global_step
        if done <= 0 or left <= 0:
            return ""
        return f", {duration((time.monotonic() - self._began) / done * left)} left"


def _training(logs: dict[str, Any]) -> dict[str, str]:
    """Words for what a training log measured, by name; the last log of a run, an average of it, has none of these."""
    shown = {}
    if "loss" in logs:
        shown["loss"] = f"loss {logs['loss']:.3f}"
        if math.isfinite(logs.get("perplexity", math.inf)):
            shown["perplexity"] = f"perplexity {_short(logs['perplexity'])}"
        if "tokens_per_second" in logs:
            shown["speed"] = f"{logs['tokens_per_second']:,.0f} tokens a second"
    return shown


def _validation(logs: dict[str, Any]) -> dict[str, str]:
    if "eval_perplexity" not in logs:
        return {}
    return {"validation": f"validation perplexity {_short(logs['eval_perplexity'])}"}


def _sentence(words: dict[str, str]) -> str:
    return ", ".join(words.values())


def _short(perplexity: float) -> str:
    return f"{perplexity:.1f}" if perplexity < 1000 else f"{perplexity:,.0f}"
