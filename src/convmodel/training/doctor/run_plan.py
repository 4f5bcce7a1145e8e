"""The plan of a run, computed before it begins.

Owns: the number of steps that follows from settings and data. Does not know the data itself.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from convmodel.layout.sequence import LossOn


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

    @classmethod
    def of(cls, settings: Mapping[str, Any], rows: int, max_length: int, *, processes: int = 1) -> "RunPlan":
        """Computes the number of steps from the fields of a `FitConfig` and the rows of an epoch, as `fit` does."""
        per_step = settings["batch_size"] * settings["gradient_accumulation_steps"] * processes
        steps = settings["max_steps"] or math.ceil(math.ceil(rows / per_step) * settings["epochs"])
        warmup = settings["warmup_steps"]
        computed = {"steps", "warmup_steps", "max_length"}
        copied = {field.name: settings[field.name] for field in fields(cls) if field.name in settings.keys() - computed}
        return cls(steps, steps // 20 if warmup is None else warmup, max_length=max_length, **copied)
