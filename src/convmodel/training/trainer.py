"""transformers' `Trainer`, with convmodel's windows, loss, validation and checkpoints.

Owns: what differs from `Trainer`, and nothing that it already does (optimizer, schedule, devices, trackers).
"""

import logging
import math
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME

from convmodel.data.stop_request import signal_name
from convmodel.data.windows.collate import WindowDataset
from convmodel.errors import StoppedError
from convmodel.evaluation.likelihood import EvaluationResult
from convmodel.hf_model.saving import save_checkpoint
from convmodel.layout.sequence import Window
from convmodel.layout.tokenizer import ConversationTokenizer
from convmodel.training.best import BestModel
from convmodel.training.config import FitConfig
from convmodel.training.divergence import DivergedError, diverged, sources_to_blame
from convmodel.training.fit_data import FitData
from convmodel.training.objectives.objective import Objective
from convmodel.training.progress import Pace
from convmodel.training.resume.eval_save_schedule import EvalSaveSchedule
from convmodel.training.resume.run_folder import RunFolder
from convmodel.training.resume.run_state import RunState, choose_checkpoint
from convmodel.training.resume.state_file import write_state
from convmodel.training.schedule import cycle_factor
from convmodel.training.sharding import allocate, restore_weights, settle_sharding, whole_weights
from convmodel.training.validation import validate, validation_metrics

logger = logging.getLogger(__name__)


class FitTrainer(Trainer):
    """A `Trainer` of windows: exact loss per token, exact validation, and runs that resume as if never stopped.

    The model must compute its loss itself: see `computing_loss`.
    """

    def __init__(
        self,
        hf_model: Any,
        tokenizer: ConversationTokenizer,
        args: TrainingArguments,
        data: FitData,
        best: BestModel,
        objective: Objective,
        callbacks: Sequence[TrainerCallback],
    ) -> None:
        self._hf_model = hf_model
        self._tokenizer = tokenizer
        self._data = data
        self._best = best
        self._objective = objective
        self._run_state = RunState(hf_model, best, objective)
        self._run: RunFolder | None = None
        self._resume: bool | None = None
        self._schedule: EvalSaveSchedule | None = None
        self._cycles: tuple[int, ...] = ()
        self._recent: list[tuple[torch.Tensor, list[Window]]] = []
        self._pace = Pace()
        super().__init__(
            model=hf_model,
            args=args,
            train_dataset=data.dataset(args.seed),
            eval_dataset=WindowDataset(data.valid.windows) if data.valid else None,
            callbacks=list(callbacks),
        )
        # Makes `Trainer` leave the division by the weight of a whole step to `compute_loss`.
        self.model_accepts_loss_kwargs = True

    @property
    def seconds_before(self) -> float:
        """How long the run took before this process resumed it."""
        return self._run_state.seconds_before

    def fit(self, config: FitConfig, run: RunFolder | None, cycles: tuple[int, ...] = ()) -> float:
        """Trains from the beginning, or from the newest checkpoint of the same run, and keeps the best weights.

        Saves no checkpoints without a folder for them. `cycles` are the steps at which the learning rate is zero, to
        rise again if training continues. Returns the training loss, averaged over the run's steps.

        Raises:
            StoppedError: If a signal stopped the run.
        """
        settle_sharding(self.accelerator, self._hf_model, config)
        self._run, self._resume, self._cycles = run, config.resume, cycles
        self._schedule = EvalSaveSchedule(config, cycles)
        self.add_callback(self._schedule)
        self.add_callback(_OnBegin(self._restore_counts))
        checkpoint = choose_checkpoint(run, config.resume, self.args) if run else None
        self._objective.begin()
        try:
            with self._schedule.handling_signals():
                loss: float = self.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None).training_loss
            self._finish()
        except DivergedError as error:
            if self._best.guard is None or self._best.result is None or self.args.world_size > 1:
                raise  # of several processes, the others wait for this one
            self._best.guard.reason, self._best.exhausted = error.problem, True
            self._best.restore()
            self.callback_handler.on_train_end(self.args, self.state, self.control)
            return math.nan
        return loss

    def _restore_counts(self) -> None:
        """Restores the sums of losses, which `Trainer` has just set to zero, and begins to measure the speed."""
        losses = self._run_state.begin(self)
        if losses is not None:
            self._tr_loss, self._total_loss_scalar, self._globalstep_last_logged = losses
            self._initial_global_step = 0  # its losses are those of the whole run
        elif self._data.valid is not None:
            allocate(self._hf_model)
            self._validate_before()
        self._pace.begin(self.state.num_input_tokens_seen)

    def _validate_before(self) -> None:
        """Validates before the first step; where training may bring nothing, that model is one of those to keep."""
        if self._best.guard is not None:
            self.evaluate()  # what later validations are compared with
            self._best.before = self._best.result
        else:
            self._best.before = result = self._measure()
            if self._cycles and math.isfinite(result.loss):  # the first step finds what is to blame if it is not
                self._consider(result, 0.0)

    def _measure(self) -> EvaluationResult:
        assert self._data.valid is not None
        return validate(self._hf_model, self._tokenizer, self._data.valid, self.args, self._best.guard)

    def _consider(self, result: EvaluationResult, seconds: float, prefix: str = "eval") -> dict[str, float]:
        """Logs a validation, and decides by it which model is kept and whether the run ends."""
        metrics = validation_metrics(result, self._best.guard, prefix)
        metrics |= {f"{prefix}_runtime": seconds, "tokens": self.state.num_input_tokens_seen}
        self.log(metrics)
        self._best.consider(result, self.state.global_step, save=self.args.should_save)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self.control.should_training_stop |= self._best.exhausted
        return metrics

    def _finish(self) -> None:
        """Validates after the last step unless that is done, and restores the best weights."""
        if self._data.valid is None:
            if not all(parameter.isfinite().all() for parameter in self._hf_model.parameters()):
                raise self._diverged("the loss is nan")
            self._best.keep(None, self.state.global_step, save=self.args.should_save)
            return
        if not any("eval_loss" in log and log["step"] == self.state.global_step for log in self.state.log_history):
            self.evaluate()
        self._best.restore(self.state.global_step)

    def _write_checkpoint(self, state: dict[str, Any], weights: dict[str, torch.Tensor] | None, folder: Path) -> None:
        facts = {"Steps": f"{self.state.global_step:,}"}
        save_checkpoint(self._hf_model, self._tokenizer, folder, facts=facts, weights=weights)
        write_state(state, folder)
        self.state.save_to_json(str(folder / TRAINER_STATE_NAME))

    def _diverged(self, problem: str, windows: Sequence[Window] = ()) -> DivergedError:
        step = self.state.global_step
        if windows:  # those of the next step
            problem = f"{problem} in {sources_to_blame(self._hf_model, self._tokenizer, windows)}"
        return diverged(problem, step + bool(windows and step), self.args.learning_rate)

    def _stopped(self, number: int) -> StoppedError:
        step, name = self.state.global_step, signal_name(number)
        if self._run is None:
            fix = "nothing is saved, since there is no output_dir: give one to be able to resume"
        else:
            way = "without --overwrite or --no-resume (resume=False)" if self._resume is False else "in the same way"
            fix = f"its state is in {self._run.checkpoint(step)}: start it again {way} to resume from there"
        return StoppedError(f"{name} stopped the run after step {step} of {self.state.max_steps}; {fix}", number)

    # Methods of `Trainer` that are overridden, read from transformers 5.23.0. Private ones may change in any version:
    # tests/unit/training/test_trainer.py compares all signatures with those of the installed one. Its attributes
    # `_tr_loss`, `_total_loss_scalar`, `_globalstep_last_logged` and `_initial_global_step` are used in this file only.

    def create_scheduler(self, num_training_steps: int, optimizer: torch.optim.Optimizer | None = None) -> Any:
        """Returns the schedule of the learning rate: `Trainer`'s own, or one with cycles."""
        if self.lr_scheduler is None and self._cycles:
            rate = partial(cycle_factor, warmup=int(self.args.warmup_steps), ends=self._cycles)
            used = optimizer or self.optimizer
            assert used is not None
            self.lr_scheduler = torch.optim.lr_scheduler.LambdaLR(used, rate)
            self._created_lr_scheduler = True
        return super().create_scheduler(num_training_steps, optimizer)

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Returns this process's share of the windows, in an order that depends on the seed and the epoch only."""
        return self._data.loader(self.args, self._tokenizer)

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Any]], device: torch.device) -> torch.Tensor:
        """Sums what divides the loss of a step over its batches and all processes."""
        tokens = torch.tensor([sum(batch.pop("tokens") for batch in batch_samples)], dtype=torch.float64)
        both = self._reduced(torch.cat([self._objective.totals(batch_samples), tokens]))
        self.state.num_input_tokens_seen += int(both[-1])
        return both[:-1]

    def _reduced(self, values: torch.Tensor) -> torch.Tensor:
        """Sums values over all processes."""
        if self.args.world_size == 1:
            return values
        reduced: torch.Tensor = self.accelerator.reduce(values.to(self.args.device), reduction="sum").cpu()
        return reduced

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Computes a batch's part of the step's mean loss per supervised token."""
        windows = inputs.pop("windows")
        assert isinstance(num_items_in_batch, torch.Tensor)
        # The totals are those of all processes, whose gradients are averaged.
        loss = self._objective.loss(model, inputs, num_items_in_batch) * self.accelerator.num_processes
        self._recent.append((loss.detach(), windows))
        return loss

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: Any = None) -> Any:
        """Raises an error before a step that would make the weights nan or infinite."""
        recent, self._recent = self._recent, []
        for loss, windows in recent:
            if not loss.isfinite():
                self._hf_model.zero_grad(set_to_none=True)
                raise self._diverged(f"the loss is {loss.item()}", windows)
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)  # type: ignore[no-untyped-call]
        if norm is not None and not math.isfinite(norm) and not self.args.fp16:  # fp16 skips such steps by itself
            self._hf_model.zero_grad(set_to_none=True)
            raise self._diverged("the gradient is not finite", [window for _, windows in recent for window in windows])
        return norm

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Validates with the same code as `ConversationModel.evaluate`."""
        if self._data.valid is None:
            return {}
        begin = time.perf_counter()
        result = self._measure()
        metrics = self._consider(result, time.perf_counter() - begin, metric_key_prefix)
        self._pace.pause(time.perf_counter() - begin)
        return metrics

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds tokens so far, speed and the objective's metrics to losses, and passes all metrics on to `Trainer`."""
        for name in ("loss", "eval_loss", "train_loss"):
            if not math.isfinite(logs.get(name, 0.0)):
                raise self._diverged(f"the loss is {logs[name]}")
        if "loss" in logs:
            tokens = self.state.num_input_tokens_seen
            logs |= {"tokens": tokens, "tokens_per_second": self._pace.since_last(tokens)}
            logs |= self._objective.metrics(logs["loss"], self._reduced)
        super().log(logs, start_time)

    def _save_checkpoint(self, model: torch.nn.Module, trial: Any) -> None:
        """Saves a checkpoint; every process contributes its part, and the first one writes."""
        if self._run is None or self._schedule is None:
            return  # a callback requested it, but there is no folder
        self.store_flos()
        losses = self._tr_loss, self._total_loss_scalar, self._globalstep_last_logged
        state, weights = self._run_state.collect(self, losses), whole_weights(self._hf_model)
        if self.args.should_save:
            write = partial(self._write_checkpoint, state, weights)
            self._run.add(self.state.global_step, write, keep=self._schedule.keep)
        self.accelerator.wait_for_everyone()

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: torch.nn.Module | None = None) -> None:
        self._run_state.load(resume_from_checkpoint)
        restore_weights(self._hf_model, resume_from_checkpoint)

    def _load_optimizer_and_scheduler(self, checkpoint: str | None) -> None:
        """Called when `Trainer` has made optimizer and schedule."""
        if checkpoint is None:
            return
        self._run_state.restore_optimizer(self)
        if self.args.should_save:
            logger.info("resuming at step %d of %d from %s", self.state.global_step, self.state.max_steps, checkpoint)

    def _load_scaler(self, checkpoint: str | None) -> None:
        self._run_state.restore_scaler(self)

    def _load_rng_state(self, checkpoint: str | None) -> None:
        """Called right before the first step, when the first batch has been fetched."""
        if checkpoint is not None:
            self._run_state.restore_random_generators(self)

    def _run_epoch(self, *args: Any, **options: Any) -> None:
        """Skips the epoch if the checkpoint is from the end of a run; `Trainer` would do one more step."""
        if self.state.global_step >= self.state.max_steps or self._best.exhausted:
            self.control.should_training_stop = True
            return
        super()._run_epoch(*args, **options)  # type: ignore[no-untyped-call]

    def _maybe_log_save_evaluate(self, *args: Any, **options: Any) -> None:
        """Ends a run that a signal stopped, after the logging, validation and saving that were due."""
        super()._maybe_log_save_evaluate(*args, **options)
        assert self._schedule is not None
        if self._schedule.stopped_by:
            # Progress bars and trackers end; the metrics of a whole run are not logged.
            self.control = self.callback_handler.on_train_end(self.args, self.state, self.control)
            raise self._stopped(self._schedule.stopped_by)

    def _finalize_training(self, trial: Any, num_train_samples: int, start_time: float) -> Any:
        """Reports loss and speed of the whole run, including what other processes did before this one resumed it."""
        if self.args.world_size > 1:  # the losses since the last logged step
            self._tr_loss = self.accelerator.reduce(self._tr_loss, reduction="mean")
        begin = start_time - self.seconds_before
        return super()._finalize_training(trial, num_train_samples, begin)  # type: ignore[no-untyped-call]


class _OnBegin(TrainerCallback):
    """Calls a function once `Trainer` has set its counts to zero."""

    def __init__(self, action: Callable[[], None]) -> None:
        self._action = action

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._action()
