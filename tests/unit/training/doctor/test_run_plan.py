"""The plan of a run counts updates as the run does."""

from typing import Any

import pytest

from convmodel.training.doctor.run_plan import RunPlan

SETTINGS: dict[str, Any] = {
    "batch_size": 8,
    "gradient_accumulation_steps": 2,
    "epochs": 2.5,
    "max_steps": None,
    "warmup_steps": None,
    "loss_on": "all",
    "packing": False,
    "objective": "sft",
    "eval_steps": None,
    "early_stopping_patience": None,
}


@pytest.mark.parametrize(
    ("changed", "steps", "warmup"),
    [({}, 18, 0), ({"max_steps": 60}, 60, 3), ({"warmup_steps": 7}, 18, 7), ({"epochs": 0.1}, 1, 0)],
    ids=str,
)
def test_a_plan_counts_updates_as_the_run_does(changed: dict[str, Any], steps: int, warmup: int) -> None:
    plan = RunPlan.of(SETTINGS | changed, rows=100, max_length=64)  # 7 updates an epoch

    assert (plan.steps, plan.warmup_steps) == (steps, warmup)
    assert (plan.batch_size, plan.max_length, plan.loss_on) == (8, 64, "all")
