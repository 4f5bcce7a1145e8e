"""When a run validates, saves and stops.

Owns: the decision after each update, on which all processes agree; and what a signal does to a run.
"""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

import torch
from transformers import TrainerCallback

from convmodel.training.config import FitConfig


class Cadence(TrainerCallback):
    """Validates and saves when it is time, whatever the logging does.

    Attributes:
        keep: Whether the checkpoint that is due stays when the run has ended; one that only the clock or a signal makes
            does not.
        stopped_by: The signal that stops the run after this update; 0 while there is none.
    """

    def __init__(self, config: FitConfig) -> None:
        self.keep = True
        self.stopped_by = 0
        self._config = config
        self._saved_at = time.monotonic()
        self._received = 0

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Starts the clock."""
        self._saved_at = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Decides what follows this update; a validation comes before the checkpoint, which knows its result."""
        step, config = state.global_step, self._config
        ends = step >= state.max_steps
        # `Trainer` counts batches: after an epoch's last one, `epoch` is a whole number.
        due = step % config.eval_steps == 0 if config.eval_steps else state.epoch == int(state.epoch)
        control.should_evaluate |= due or ends
        late = bool(config.save_minutes) and time.monotonic() - self._saved_at >= config.save_minutes * 60
        late, self.stopped_by = self._agreed(args, late and not ends, self._received)
        # What a callback asks for, here or when the validation or the epoch ends, is as much asked for.
        asked = control.should_save or (bool(config.save_steps) and step % config.save_steps == 0)
        unasked = bool(late or self.stopped_by)
        self.keep = asked or not unasked
        control.should_save |= config.output_dir is not None and (asked or unasked)
        control.should_training_stop |= bool(self.stopped_by)

    def on_save(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Starts the clock anew; what is saved without another update was asked for."""
        self._saved_at = time.monotonic()
        self.keep = True

    def _agreed(self, args: Any, late: bool, received: int) -> tuple[bool, int]:
        """Asks all processes: the first one's clock decides, and a signal to one is a signal to all."""
        if args.world_size == 1:
            return late, received
        both = torch.tensor([late and args.process_index == 0, received], device=args.device, dtype=torch.int64)
        torch.distributed.all_reduce(both, op=torch.distributed.ReduceOp.MAX)
        late_there, received_there = both.tolist()
        return bool(late_there), received_there

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Lets SIGTERM and the first Ctrl-C stop the run after the update at hand; a second signal acts as ever."""
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread may decide what signals do
            return
        before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}

        def restore() -> None:
            for number, handler in before.items():
                signal.signal(number, handler if handler is not None else signal.SIG_DFL)

        def note(number: int, frame: FrameType | None) -> None:
            self._received = number
            restore()

        for number, handler in before.items():
            # A program that ignores a signal, as one started with nohup or in the background may, goes on to do so.
            if handler != signal.SIG_IGN:
                signal.signal(number, note)
        try:
            yield
        finally:
            restore()
