"""A `Trainer` whose runs go on exactly where they stopped.

Owns: what a checkpoint holds beside the model, and putting it back into a `Trainer` at the right moments.
"""

import logging
import os
import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback
from transformers.trainer import TRAINER_STATE_NAME

from convmodel.errors import StoppedError
from convmodel.hf_model.saving import save_checkpoint
from convmodel.layout.tokenizer import ConversationTokenizer
from convmodel.training.best import BestModel
from convmodel.training.config import FitConfig
from convmodel.training.resume.eval_save_schedule import Cadence
from convmodel.training.resume.rng_state import random_state, restore_random_state
from convmodel.training.resume.run_folder import RunFolder
from convmodel.training.resume.state_file import load_optimizer_state, optimizer_state, read_state, write_state
from convmodel.training.sharding import restore_weights, settle_sharding, spread_optimizer_state, whole, whole_weights

logger = logging.getLogger(__name__)


class ResumableTrainer(Trainer):
    """A `Trainer` that saves whole checkpoints without pickle, and goes on from one as if it had never stopped.

    Attributes:
        seconds_before: How long the run took before this process went on with it.
    """

    def __init__(self, *, tokenizer: ConversationTokenizer, best: BestModel, **options: Any) -> None:
        self._tokenizer = tokenizer
        self._best = best
        self._run: RunFolder | None = None
        self._anew = False
        self._cadence: Cadence | None = None
        self._resumed: dict[str, Any] = {}
        self._began = time.time()
        self.seconds_before = 0.0
        super().__init__(**options)

    def fit(self, config: FitConfig, run: RunFolder | None) -> float:
        """Trains from the beginning, or from the newest checkpoint of the same run.

        Args:
            config: When to validate and to save.
            run: Where checkpoints are; None if there are to be none.

        Returns:
            The training loss, averaged over the run's updates.

        Raises:
            ConfigError: If the folder holds another run, or the model cannot be spread over processes as asked.
            SaveError: If a checkpoint cannot be written.
            StoppedError: If a signal stopped the run.
        """
        settle_sharding(self.accelerator, self.accelerator.unwrap_model(self.model), config)
        self._run = run
        self._anew = config.resume is False
        self._cadence = Cadence(config)
        self.add_callback(self._cadence)
        self.add_callback(_Beginning(self))
        checkpoint = self._first_chooses(config) if run else None
        with self._cadence.listening():
            return self.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None).training_loss

    def _first_chooses(self, config: FitConfig) -> Path | None:
        """Lets the first process choose the checkpoint to go on from, and tells the others."""
        assert self._run is not None
        checkpoint = None
        if self.args.should_save:
            self._run.lock()  # before it is read: another process may be writing it
            # A run that torchrun starts again goes on, though the first start began anew.
            restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
            checkpoint = self._run.find(None if restarted and config.resume is False else config.resume)
            self._run.begin(checkpoint)
        step = torch.tensor(int(checkpoint.name.partition("-")[2]) if checkpoint else 0, device=self.args.device)
        if self.args.world_size > 1:
            torch.distributed.broadcast(step, src=0)
        return self._run.checkpoint(int(step.item())) if step else None

    # Saving

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """Saves the run as it is; every process gives its part and the first one writes."""
        if self._run is None or self._cadence is None:
            return  # a callback asked for it, but there is no folder
        self.store_flos()
        state, weights = self._state(), whole_weights(self.accelerator.unwrap_model(self.model))
        if self.args.should_save:
            self._run.add(self.state.global_step, partial(self._write, state, weights), keep=self._cadence.keep)
        self.accelerator.wait_for_everyone()

    def _write(self, state: dict[str, Any], weights: dict[str, torch.Tensor] | None, folder: Path) -> None:
        hf_model = self.accelerator.unwrap_model(self.model)
        facts = {"Updates": f"{self.state.global_step:,}"}
        save_checkpoint(hf_model, self._tokenizer, folder, facts=facts, weights=weights)
        write_state(state, folder)
        self.state.save_to_json(str(folder / TRAINER_STATE_NAME))

    def _state(self) -> dict[str, Any]:
        own = random_state(all_devices=self.args.world_size == 1) | {"loss": self._tr_loss}
        assert self.optimizer is not None
        assert self.lr_scheduler is not None
        scaler = getattr(self.accelerator, "scaler", None)
        return {
            "optimizer": whole(optimizer_state(self.optimizer, self.accelerator.unwrap_model(self.model))),
            "schedule": self.lr_scheduler.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else None,
            "processes": {name: self._gathered(value) for name, value in own.items()},
            "losses": {"total": self._total_loss_scalar, "logged_at": self._globalstep_last_logged},
            "best": self._best.to_dict(),
            "seconds": self.seconds_before + time.time() - self._began,
        }

    def _gathered(self, value: torch.Tensor) -> torch.Tensor:
        """Stacks a tensor of every process."""
        if self.args.world_size == 1:
            return value[None]
        stacked: torch.Tensor = self.accelerator.gather(value[None].to(self.args.device))
        return stacked

    # Going on

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        """Reads a checkpoint, and puts its weights into the model in hand."""
        self._resumed = read_state(Path(resume_from_checkpoint))
        hf_model: Any = self.model
        restore_weights(hf_model, resume_from_checkpoint)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Puts back the optimizer's state and the schedule's, when `Trainer` has made both."""
        if checkpoint is None:
            return
        assert self.optimizer is not None
        assert self.lr_scheduler is not None
        model = self.accelerator.unwrap_model(self.model)
        load_optimizer_state(self.optimizer, model, spread_optimizer_state(self._resumed.pop("optimizer"), model))
        self.lr_scheduler.load_state_dict(self._resumed["schedule"])
        if self.args.should_save:
            step, steps = self.state.global_step, self.state.max_steps
            logger.info("going on from update %d of %d in %s", step, steps, checkpoint)

    def _load_scaler(self, checkpoint: str | None) -> None:
        """Puts back the scale of fp16's gradients."""
        if self._resumed and self._resumed["scaler"]:
            self.accelerator.scaler.load_state_dict(self._resumed["scaler"])

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Called by `Trainer` right before the first update, when the first batch has been fetched."""
        if checkpoint is not None:
            restore_random_state(self._own_part())

    def _own_part(self) -> dict[str, torch.Tensor]:
        """Of what every process gave, what this one did."""
        return {name: value[self.args.process_index] for name, value in self._resumed["processes"].items()}

    def restore_counts(self) -> None:
        """Puts back what `Trainer` has just set to nothing: sums of losses; and the best validation."""
        self._began = time.time()
        if not self._resumed:
            return
        self._tr_loss = self._own_part()["loss"].to(self.args.device)
        self._total_loss_scalar = self._resumed["losses"]["total"]
        self._globalstep_last_logged = self._resumed["losses"]["logged_at"]
        self._initial_global_step = 0  # its losses are those of the whole run
        self.seconds_before = self._resumed["seconds"]
        self._best.load_dict(self._resumed["best"])

    def _run_epoch(self, *args: Any, **options: Any) -> None:
        """Does nothing more where the checkpoint was that of a run's end; `Trainer` would do one more update."""
        if self.state.global_step >= self.state.max_steps or self._best.exhausted:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **options)  # type: ignore[no-untyped-call]

    def _maybe_log_save_evaluate(self, *args: Any, **options: Any) -> None:
        """Ends the run where a signal stopped it, when what was due after the update is done."""
        super()._maybe_log_save_evaluate(*args, **options)
        assert self._cadence is not None
        if self._cadence.stopped_by:
            # Bars and trackers end, but what is only measured of a whole run is not.
            self.control = self.callback_handler.on_train_end(self.args, self.state, self.control)
            raise self._stopped(self._cadence.stopped_by)

    def _finalize_training(self, trial: Any, num_train_samples: int, start_time: float) -> Any:
        """Ends as if the whole run had been done here, so that its speed is that of all its updates."""
        if self.args.world_size > 1:  # the losses since the last that was logged
            self._tr_loss = self.accelerator.reduce(self._tr_loss, reduction="mean")
        begin = start_time - self.seconds_before
        return super()._finalize_training(trial, num_train_samples, begin)  # type: ignore[no-untyped-call]

    def _stopped(self, number: int) -> StoppedError:
        step, name = self.state.global_step, signal.Signals(number).name
        where = f"update {step} of {self.state.max_steps}"
        if self._run is None:
            cure = "nothing is saved, since there is no output_dir: give one to go on from there the next time"
        else:
            way = "without --overwrite or --no-resume (resume=False)" if self._anew else "in the same way"
            cure = f"all is saved in {self._run.checkpoint(step)}: start it again {way} to go on from there"
        return StoppedError(f"{name} stopped the run after {where}; {cure}", number)


class _Beginning(TrainerCallback):
    """Tells the trainer when `Trainer` has set its counts to nothing."""

    def __init__(self, trainer: ResumableTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Puts back the counts of a run that goes on."""
        self._trainer.restore_counts()
