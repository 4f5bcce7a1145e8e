"""The plan of a run, computed before it begins.

Owns: the number of updates that follows from settings and data. Does not know the data itself.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from convmodel.layout.sequence import LossOn


@dataclass(frozen=True, slots=True)
class RunPlan:
    """The plan of a run, in plain values.

    Attributes:
        steps: Updates.
        warmup_steps: Updates over which the learning rate rises.
        batch_size: Windows in one forward pass.
        gradient_accumulation_steps: Forward passes in one update.
        epochs: Passes over the data, as configured; `steps` takes precedence.
        max_length: The longest window, in tokens.
        loss_on: Whose turns are supervised.
        packing: Whether several windows share a row.
        precision: The precision of matrix products, as configured.
        gradient_checkpointing: Whether activations are recomputed rather than kept.
    """

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
        """Computes the number of updates of a run with these settings, as `fit` does.

        Args:
            settings: The fields of a `FitConfig` by name.
            rows: The number of windows, or rows of packed windows, in an epoch.
            max_length: The longest window, in tokens.
            processes: The number of processes, each with its own batches.

        Example:
            >>> settings = dict(batch_size=8, gradient_accumulation_steps=1, epochs=3.0, max_steps=None,
            ...     warmup_steps=None, loss_on="all", packing=False)
            >>> RunPlan.of(settings, rows=100, max_length=1024).steps  # 13 per epoch
            39
        """
        per_update = settings["batch_size"] * settings["gradient_accumulation_steps"] * processes
        steps = settings["max_steps"] or math.ceil(math.ceil(rows / per_update) * settings["epochs"])
        warmup = settings["warmup_steps"]
        computed = {"steps", "warmup_steps", "max_length"}
        copied = {field.name: settings[field.name] for field in fields(cls) if field.name in settings.keys() - computed}
        return cls(steps, steps // 20 if warmup is None else warmup, max_length=max_length, **copied)
