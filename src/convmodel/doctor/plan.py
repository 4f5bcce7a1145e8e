"""What a run is going to do, computed before it begins.

Owns: how many updates some settings and some data make.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from convmodel.layout import LossOn


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
    """

    steps: int
    warmup_steps: int
    batch_size: int
    gradient_accumulation_steps: int
    epochs: float
    max_length: int
    loss_on: LossOn

    @classmethod
    def of(cls, settings: Mapping[str, Any], windows: int, max_length: int) -> "RunPlan":
        """Computes how many updates a run of such settings has, as `fit` does.

        Args:
            settings: The fields of a `FitConfig` by name.
            windows: How many training windows there are.
            max_length: The longest window, in tokens.

        Example:
            >>> settings = dict(batch_size=8, gradient_accumulation_steps=1, epochs=3.0, max_steps=None,
            ...     warmup_steps=None, loss_on="all")
            >>> RunPlan.of(settings, windows=100, max_length=1024).steps  # 13 an epoch
            39
        """
        per_update = settings["batch_size"] * settings["gradient_accumulation_steps"]
        steps = settings["max_steps"] or math.ceil(math.ceil(windows / per_update) * settings["epochs"])
        warmup = settings["warmup_steps"]
        same = {name: settings[name] for name in ("batch_size", "gradient_accumulation_steps", "epochs", "loss_on")}
        return cls(steps, steps // 20 if warmup is None else warmup, max_length=max_length, **same)
