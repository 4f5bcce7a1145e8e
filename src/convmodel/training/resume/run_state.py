"""The state of a run beside its model: optimizer, schedule, random generators, loss sums, best validation.

Owns: collecting that state from a `Trainer`, restoring it part by part, and choosing one checkpoint for all processes.
Does not know when `Trainer` is ready for each part.
"""

import os
import random
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch

from convmodel.training.best import BestModel
from convmodel.training.objectives.objective import Objective
from convmodel.training.resume.run_folder import RunFolder
from convmodel.training.resume.state_file import load_optimizer_state, optimizer_state, read_state
from convmodel.training.sharding import spread_optimizer_state, whole

if TYPE_CHECKING:
    from transformers import PreTrainedModel, Trainer, TrainingArguments


LossSums = tuple[torch.Tensor, float, int]
"""A `Trainer`'s losses: this process's sum since the last logged step, the sum up to it, and that step."""


class RunState:
    """Collects and restores the state of one run."""

    def __init__(self, hf_model: "PreTrainedModel", best: BestModel, objective: Objective) -> None:
        self.seconds_before = 0.0  # how long the run took before this process resumed it
        self._hf_model = hf_model
        self._objective = objective
        self._best = best
        self._began = time.time()
        self._loaded: dict[str, Any] = {}

    def collect(self, trainer: "Trainer", losses: LossSums) -> dict[str, Any]:
        """Returns the state of all processes as nested dictionaries; each process must call it."""
        assert trainer.optimizer is not None
        assert trainer.lr_scheduler is not None
        pending, logged, logged_at = losses
        scaler = getattr(trainer.accelerator, "scaler", None)
        of_process = random_state() | {"loss": pending}
        if self._objective.sums is not None:
            of_process["metrics"] = self._objective.sums
        return {
            "optimizer": whole(optimizer_state(trainer.optimizer, self._hf_model)),
            "schedule": trainer.lr_scheduler.state_dict(),
            "scaler": scaler.state_dict() if scaler is not None else None,
            "processes": {name: _stacked(value, trainer) for name, value in of_process.items()},
            "losses": {"total": logged, "logged_at": logged_at},
            "best": self._best.to_dict(),
            "seconds": self.seconds_before + time.time() - self._began,
        }

    def load(self, checkpoint: str) -> None:
        """Reads the state from a checkpoint's folder; the methods below restore its parts."""
        self._loaded = read_state(Path(checkpoint))

    def restore_optimizer(self, trainer: "Trainer") -> None:
        """Restores the optimizer and the learning rate schedule, which `Trainer` must have made."""
        assert trainer.optimizer is not None
        assert trainer.lr_scheduler is not None
        state = spread_optimizer_state(self._loaded.pop("optimizer"), self._hf_model)
        load_optimizer_state(trainer.optimizer, self._hf_model, state)
        trainer.lr_scheduler.load_state_dict(self._loaded["schedule"])

    def restore_scaler(self, trainer: "Trainer") -> None:
        """Restores the scale of gradients in fp16."""
        if self._loaded and self._loaded["scaler"]:
            trainer.accelerator.scaler.load_state_dict(self._loaded["scaler"])

    def restore_random_generators(self, trainer: "Trainer") -> None:
        """Restores this process's random generators."""
        restore_random_state(self._of_process(trainer))

    def begin(self, trainer: "Trainer") -> LossSums | None:
        """Starts the clock and restores the best validation; returns the losses so far of a resumed run."""
        self._began = time.time()
        if not self._loaded:
            return None
        self.seconds_before = self._loaded["seconds"]
        self._best.load_dict(self._loaded["best"])
        losses = self._loaded["losses"]
        if self._objective.sums is not None:
            self._objective.sums = self._of_process(trainer)["metrics"].cpu().clone()
        pending = self._of_process(trainer)["loss"].to(trainer.args.device)
        return pending, losses["total"], losses["logged_at"]

    def _of_process(self, trainer: "Trainer") -> dict[str, torch.Tensor]:
        """Returns this process's row of the tensors that were stacked over all processes."""
        return {name: value[trainer.args.process_index] for name, value in self._loaded["processes"].items()}


def _stacked(value: torch.Tensor, trainer: "Trainer") -> torch.Tensor:
    """Stacks a tensor over all processes."""
    if trainer.args.world_size == 1:
        return value[None]
    stacked: torch.Tensor = trainer.accelerator.gather(value[None].to(trainer.args.device))
    return stacked


def choose_checkpoint(run: RunFolder, resume: bool | None, args: "TrainingArguments") -> Path | None:
    """Chooses the checkpoint to resume from on the first process and sends it to the others; None starts a new run."""
    checkpoint = None
    if args.should_save:
        run.lock()  # before it is read: another process may be writing it
        # A run that torchrun restarts resumes, even if its first start did not.
        restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
        checkpoint = run.find(None if restarted and resume is False else resume)
        run.begin(checkpoint)
    step = torch.tensor(int(checkpoint.name.partition("-")[2]) if checkpoint else 0, device=args.device)
    if args.world_size > 1:
        torch.distributed.broadcast(step, src=0)
    return run.checkpoint(int(step.item())) if step else None


def random_state() -> dict[str, torch.Tensor]:
    """Returns the states of Python's, numpy's and torch's global generators, as tensors.

    Of GPUs that of the current one, which trains: others would get memory occupied, and may be absent on resuming.
    """
    _, keys, gauss = random.getstate()
    _, words, position, has_gauss, cached = cast("tuple[str, np.ndarray, int, int, float]", np.random.get_state())
    state = {
        "python": torch.tensor(keys, dtype=torch.int64),
        "python_gauss": torch.tensor(float("nan") if gauss is None else gauss, dtype=torch.float64),
        "numpy": torch.tensor([*words.tolist(), position, has_gauss], dtype=torch.int64),
        "numpy_gauss": torch.tensor(cached, dtype=torch.float64),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        device = torch.cuda.current_device()
        state[f"cuda_{device}"] = torch.cuda.get_rng_state(device)
    if torch.backends.mps.is_available():
        state["mps"] = torch.mps.get_rng_state()
    return state


def restore_random_state(state: dict[str, torch.Tensor]) -> None:
    """Restores the generators to a state that `random_state` returned."""
    gauss = float(state["python_gauss"])
    random.setstate((3, tuple(state["python"].tolist()), None if np.isnan(gauss) else gauss))
    *words, position, has_gauss = state["numpy"].tolist()
    np.random.set_state(("MT19937", np.array(words, np.uint32), position, has_gauss, float(state["numpy_gauss"])))
    # Copied, since torch reads from the start of the storage even if the tensor is a later part of it.
    torch.set_rng_state(state["torch"].cpu().clone())
    devices = [name for name in state if name.startswith("cuda_")]
    if devices and torch.cuda.is_available():
        # A restarted process may get another GPU: the state of the one that trained is for the current one. Earlier
        # versions saved all visible ones, the first of which trained.
        device = torch.cuda.current_device()
        saved = state.get(f"cuda_{device}", state[devices[0]])
        torch.cuda.set_rng_state(saved.cpu().clone(), device)
    if "mps" in state and torch.backends.mps.is_available():
        torch.mps.set_rng_state(state["mps"].cpu().clone())
