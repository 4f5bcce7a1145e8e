"""The plan of a run, computed before it begins.

Owns: the number of steps that follows from settings and data. Does not know the data itself, nor how open settings are
chosen (`schedule.py`).
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from convmodel.layout.sequence import LossOn
from convmodel.training.schedule import Schedule, warmup_of


@dataclass(frozen=True, slots=True)
class RunPlan:
    """The steps that `epochs` amounts to, the limit of windows in tokens, and settings as `FitConfig` has them."""

    steps: int
    warmup_steps: int
    batch_size: int
    gradient_accumulation_steps: int
    epochs: float
    max_length: int
    loss_on: LossOn
    packing: bool = False
    precision: str = "fp32"
    gradient_checkpointing: bool = False
    early_stopping_patience: int | None = None
    cycles: tuple[int, ...] = ()  # steps at which one ends, and the run if validation does not improve any more
    chosen: Mapping[str, Any] = field(default_factory=dict)  # the settings that were left open, as numbers
    eval_steps: int | None = None
    steps_per_epoch: int = 1

    @classmethod
    def of(
        cls, settings: Mapping[str, Any], rows: int, max_length: int, *, valid_rows: int = 0, processes: int = 1
    ) -> "RunPlan":
        """Computes the number of steps from the fields of a `FitConfig` and the rows of an epoch, as `fit` does.

        Raises:
            ConfigError: If `epochs` is auto without validation data.
        """
        schedule = Schedule.of(settings, rows, valid_rows=valid_rows, processes=processes)
        settings = {**settings, **schedule.settings}
        per_step = settings["batch_size"] * settings["gradient_accumulation_steps"] * processes
        per_epoch = math.ceil(rows / per_step)
        steps = settings["max_steps"] or math.ceil(per_epoch * settings["epochs"])
        computed = {"steps", "warmup_steps", "max_length", "cycles", "chosen", "steps_per_epoch"}
        copied = {one.name: settings[one.name] for one in fields(cls) if one.name in settings.keys() - computed}
        warmup = warmup_of(settings, steps)
        copied |= {"max_length": max_length, "cycles": schedule.cycles, "chosen": schedule.settings}
        return cls(steps, warmup, steps_per_epoch=per_epoch, **copied)

    @property
    def may_end_early(self) -> bool:
        """Returns whether the steps are the most that there can be."""
        return bool(self.early_stopping_patience or self.cycles)

    @property
    def validations(self) -> int:
        """Returns how often validation data is measured: before the first step, when it is due, and at the end."""
        return 1 + math.ceil(self.steps / (self.eval_steps or self.steps_per_epoch))

    def count(self) -> str:
        """Returns the number of steps as text.

        Example:
            >>> settings = {"objective": "sft", "max_steps": 1200, "batch_size": 8, "gradient_accumulation_steps": 1}
            >>> settings |= {"epochs": 3, "warmup_steps": None, "loss_on": "all", "early_stopping_patience": 2}
            >>> RunPlan.of(settings, 100, 64).count()
            'at most 1,200 steps'
        """
        return f"{'at most ' if self.may_end_early else ''}{self.steps:,} steps"

    def lengths(self) -> str:
        """Returns after how many steps the run may end, as text.

        Example:
            >>> from dataclasses import replace
            >>> plan = RunPlan(126, 2, 8, 1, 21, 64, "all", cycles=(18, 54, 126))
            >>> plan.lengths()
            'at most 18 steps, 54 or 126 if validation still improves'
            >>> replace(plan, cycles=(126,)).lengths()
            'at most 126 steps'
        """
        if len(self.cycles) < 2:
            return self.count()
        first, *further = (f"{end:,}" for end in self.cycles)
        return f"at most {first} steps, {' or '.join(further)} if validation still improves"
