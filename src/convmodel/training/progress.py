"""What a fine-tuning run shows while it works.

Owns: a progress bar where a person looks on, log lines elsewhere.
"""

import logging
import sys
from typing import Any

from tqdm.auto import tqdm
from transformers import TrainerCallback

logger = logging.getLogger(__name__)


class FitProgress(TrainerCallback):
    """Shows updates, training loss and validation perplexity on standard error."""

    def __init__(self) -> None:
        self._bar: Any = None
        self._seen: dict[str, str] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Opens the bar."""
        if state.is_world_process_zero and sys.stderr.isatty():
            self._bar = tqdm(total=state.max_steps, desc="fit", unit="update", dynamic_ncols=True)

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Moves the bar."""
        if self._bar is not None:
            self._bar.update(state.global_step - self._bar.n)

    def on_log(self, args: Any, state: Any, control: Any, logs: Any = None, **kwargs: Any) -> None:
        """Shows what was measured."""
        if not state.is_world_process_zero:
            return
        new = {}
        if "loss" in logs:
            new["loss"] = f"{logs['loss']:.3f}"
        if "eval_perplexity" in logs:
            new["validation perplexity"] = f"{logs['eval_perplexity']:.1f}"
        self._seen |= new
        if self._bar is not None:
            self._bar.set_postfix(self._seen)
        elif new:
            shown = ", ".join(f"{name} {value}" for name, value in new.items())
            logger.info("update %d of %d: %s", state.global_step, state.max_steps, shown)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Closes the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None
