"""What a run is going to do, computed before it begins.

Owns: how many updates some settings and some data make.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from convmodel.layout.sequence import LossOn


@dataclass(frozen=True, slots=True)
class RunPlan:
    """What a run is going to do, in plain values.

    Attributes:
        steps: Updates.
        warmup_steps: Updates over which the learning rate rises.
        batch_size: Windows in one forward pass.
        gradient_accumulation_steps: Forward passes in one update.
        epochs: Passes over the data, as asked for; `steps` has the last word.
        max_length: The longest window, in tokens.
        loss_on: Whose turns are supervised.
        packing: Whether several windows share a row.
        precision: What matrix products are computed in, as the settings say it.
        gradient_checkpointing: Whether activations are computed twice rather than kept.
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
        """Computes how many updates a run of such settings has, as `fit` does.

        Args:
            settings: The fields of a `FitConfig` by name.
            rows: How many windows, or rows of packed windows, an epoch has.
            max_length: The longest window, in tokens.
            processes: How many train together, each with batches of its own.

        Example:
            >>> settings = dict(batch_size=8, gradient_accumulation_steps=1, epochs=3.0, max_steps=None,
            ...     warmup_steps=None, loss_on="all", packing=False)
            >>> RunPlan.of(settings, rows=100, max_length=1024).steps  # 13 an epoch
            39
        """
        per_update = settings["batch_size"] * settings["gradient_accumulation_steps"] * processes
        steps = settings["max_steps"] or math.ceil(math.ceil(rows / per_update) * settings["epochs"])
        warmup = settings["warmup_steps"]
        own = {"steps", "warmup_steps", "max_length"}
        same = {field.name: settings[field.name] for field in fields(cls) if field.name in settings.keys() - own}
        return cls(steps, steps // 20 if warmup is None else warmup, max_length=max_length, **same)
