"""The length of a run whose settings leave it open, and the learning rate of its cycles.

Owns: what `epochs="auto"` amounts to for a number of windows, as values of settings; the defaults of a run with a fixed
length. Knows numbers only.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal

from convmodel.errors import ConfigError

AUTO: Final = "auto"
"""The value of `epochs` with which a run ends by itself."""

Auto = Literal["auto"]

EPOCHS = 3.0
"""Passes of a run of fixed length, and of the first cycle of one that ends by itself."""

BATCH_SIZE = 8
"""Windows in a forward pass, unless there are few."""

CYCLES = 3
"""The most cycles of a run, each with twice as many passes as the one before: 3, 6 and 12, which are 21 in all."""

MAX_STEPS = 1000
"""The most steps of a run that has several cycles; with more data, the first one learns much, and others take long."""

STEPS_PER_EPOCH = 10
"""Steps that a pass should have at least; with fewer windows, batches are smaller."""

VALIDATIONS = 4
"""The most validations in a pass."""

GUARDED_STEPS = 8
"""The most steps between validations of a run on judgements, for its regression guard."""

_STEPS_BETWEEN = 25  # from one validation to the next, at least, if there are several in a pass
_PATIENCE = 2  # passes without improvement after which the run ends, in the middle of a cycle, too
_WARMUP = 20  # one step of so many of a run, or of the first cycle


@dataclass(frozen=True, slots=True)
class Schedule:
    """What follows from the number of windows.

    Attributes:
        settings: The settings that the user left open, as numbers.
        cycles: The steps at which cycles end; empty for a run of fixed length.
    """

    settings: dict[str, Any]
    cycles: tuple[int, ...] = ()

    @classmethod
    def of(cls, settings: Mapping[str, Any], rows: int, *, valid_rows: int, processes: int = 1) -> "Schedule":
        """Chooses what the fields of a `FitConfig` leave open.

        A run that ends by itself has cycles, in each of which the learning rate falls from its peak to zero, as
        `cycle_factor` computes it. The first one is a run with `epochs` 3. A cycle whose last validation is not the
        best so far is the last cycle.

        Args:
            settings: The fields of a `FitConfig`.
            rows: Training windows, or rows of packed ones.
            valid_rows: Validation windows; 0 without validation data.
            processes: How many processes train together.

        Raises:
            ConfigError: If `epochs` is auto without validation data.
        """
        require_validation(settings, validated=valid_rows > 0)
        others = settings["gradient_accumulation_steps"] * processes
        if settings["objective"] != "sft" or settings["max_steps"] or isinstance(settings["epochs"], int | float):
            epochs = EPOCHS if settings["epochs"] in (None, AUTO) else settings["epochs"]
            chosen = {"epochs": epochs, "batch_size": settings["batch_size"] or BATCH_SIZE}
            per_epoch = -(-rows // (chosen["batch_size"] * others))
            is_guarded = settings["objective"] != "sft" and valid_rows
            if is_guarded and settings["eval_steps"] is None and per_epoch > GUARDED_STEPS:
                # The guard keeps the weights of the last validation that passes: after an epoch it may be too late.
                chosen["eval_steps"] = -(-per_epoch // -(-per_epoch // GUARDED_STEPS))
            return cls(chosen)
        batch_size = settings["batch_size"] or _batch_size(rows, others)
        per_epoch = -(-rows // (batch_size * others))
        if not valid_rows:
            return cls({"epochs": EPOCHS, "batch_size": batch_size})
        ends = cycle_ends(per_epoch)
        count = max(1, min(VALIDATIONS, per_epoch // _STEPS_BETWEEN, rows // (2 * valid_rows)))
        eval_steps = settings["eval_steps"] or -(-per_epoch // count)
        patience = settings["early_stopping_patience"] or max(1, _PATIENCE * per_epoch // eval_steps)
        warmup = settings["warmup_steps"]
        return cls(
            {
                "epochs": float(ends[-1] // per_epoch),
                "batch_size": batch_size,
                "warmup_steps": ends[0] // _WARMUP if warmup is None else warmup,
                "eval_steps": eval_steps,
                "early_stopping_patience": patience,
            },
            ends,
        )


def require_validation(settings: Mapping[str, Any], *, validated: bool) -> None:
    """Raises ConfigError if `epochs` is auto without validation data."""
    if settings["epochs"] == AUTO and not validated:
        raise ConfigError(
            "epochs is auto, which ends a run when validation stops improving: pass valid too, or give a number of "
            "epochs"
        )


def _batch_size(rows: int, others: int) -> int:
    """Returns the largest power of two, at most `BATCH_SIZE`, with which a pass has `STEPS_PER_EPOCH` steps, or 1.

    Larger batches would be faster, but 24 windows in batches of 8 are 9 steps in three passes: hardly any training.
    """
    size = BATCH_SIZE
    while size > 1 and rows < size * others * STEPS_PER_EPOCH:
        size //= 2
    return size


def cycle_ends(per_epoch: int) -> tuple[int, ...]:
    """Returns the steps at which cycles end, given the steps of a pass: those within `MAX_STEPS`, and the first.

    Example:
        >>> cycle_ends(11), cycle_ends(100), cycle_ends(2000)
        ((33, 99, 231), (300, 900), (6000,))
    """
    first = int(EPOCHS) * per_epoch
    ends = [first * (2**number - 1) for number in range(1, CYCLES + 1)]
    return tuple(end for end in ends if end == first or end <= MAX_STEPS)


def warmup_of(settings: Mapping[str, Any], steps: int) -> int:
    """Returns the steps over which the learning rate of a run rises; by default a twentieth of them."""
    warmup: int | None = settings["warmup_steps"]
    return steps // _WARMUP if warmup is None else warmup


def cycle_factor(step: int, *, warmup: int, ends: tuple[int, ...]) -> float:
    """Returns the learning rate of a step, counted from 0, as a part of its peak: a rise and a linear fall per cycle.

    Restarts follow Loshchilov & Hutter, "SGDR: Stochastic gradient descent with warm restarts", 2017.

    Example:
        >>> [cycle_factor(step, warmup=1, ends=(3, 8)) for step in range(9)]
        [0.0, 1.0, 0.5, 0.0, 1.0, 0.75, 0.5, 0.25, 0.0]
    """
    begin = max((end for end in ends if end <= step), default=0)
    end = next((end for end in ends if end > step), begin)
    within, length = step - begin, end - begin
    if within < warmup:
        return within / max(1, warmup)
    return (length - within) / max(1, length - warmup)
