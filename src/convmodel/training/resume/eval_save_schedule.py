"""When a run validates, saves and stops.

Owns: the decision after each step, on which all processes agree, also after a signal. Does not know what is saved.
"""

import logging
import time
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from transformers import TrainerCallback

from convmodel.data.stop_request import StopRequest, handling_signals
from convmodel.training.config import FitConfig

logger = logging.getLogger(__name__)


class EvalSaveSchedule(TrainerCallback):
    """Requests validations and checkpoints when they are due, independently of logging."""

    def __init__(self, config: FitConfig, cycles: Collection[int] = ()) -> None:
        """Prepares the schedule of a run; each of the steps at which `cycles` end is validated."""
        self.keep = True  # whether the next checkpoint stays: not if only the clock or a signal requested it
        self.stopped_by = 0  # the signal that stops the run after this step
        self._config = config
        self._cycles = cycles
        self._saved_at = time.monotonic()
        self._request = StopRequest()

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Starts the clock."""
        self._saved_at = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Decides what follows this step; a validation precedes the checkpoint, which holds its result."""
        step, config = state.global_step, self._config
        ends = step >= state.max_steps
        # `Trainer` counts batches: after an epoch's last one, `epoch` is a whole number.
        due = step % config.eval_steps == 0 if config.eval_steps else state.epoch == int(state.epoch)
        control.should_evaluate |= due or ends or step in self._cycles
        late = bool(config.save_minutes) and time.monotonic() - self._saved_at >= config.save_minutes * 60
        late, self.stopped_by = self._agreed(args, late and not ends, self._request.number or 0)
        # A checkpoint that a callback requests, now or after the validation or the epoch, stays too.
        requested = control.should_save or (bool(config.save_steps) and step % config.save_steps == 0)
        temporary = bool(late or self.stopped_by)
        self.keep = requested or not temporary
        control.should_save |= config.output_dir is not None and (requested or temporary)
        control.should_training_stop |= bool(self.stopped_by)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Restarts the clock; a second checkpoint after the same step was requested by a callback, and stays."""
        self._saved_at = time.monotonic()
        self.keep = True

    def _agreed(self, args: Any, late: bool, received: int) -> tuple[bool, int]:
        """Synchronizes the decision over all processes: the clock of the first one, and a signal to any of them."""
        if args.world_size == 1:
            return late, received
        both = torch.tensor([late and args.process_index == 0, received], device=args.device, dtype=torch.int64)
        torch.distributed.all_reduce(both, op=torch.distributed.ReduceOp.MAX)
        any_late, any_received = both.tolist()
        return bool(any_late), any_received

    @contextmanager
    def handling_signals(self) -> Iterator[None]:
        """Makes SIGTERM and the first Ctrl-C stop the run after the current step; a second one has its usual effect."""
        with handling_signals(self._log_stop) as self._request:
            yield

    def _log_stop(self, request: StopRequest) -> None:
        doing = "saving ..." if self._config.output_dir is not None else "stopping ..."
        logger.info(f"{request.name}: {doing} (after this step; again to stop at once)")
