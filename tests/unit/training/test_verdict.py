"""A run ends with a sentence that says what it brought."""

import math
from types import SimpleNamespace
from typing import Any

import pytest

from convmodel.evaluation.likelihood import EvaluationResult
from convmodel.training.config import FitConfig
from convmodel.training.doctor.run_plan import RunPlan
from convmodel.training.verdict import ended_early, verdict


def measured(perplexity: float, conversations: int = 50) -> EvaluationResult:
    return EvaluationResult(math.log(perplexity), perplexity, 1.5, 100, 300, conversations, conversations)


def says(
    before: float | None, validations: dict[int, float], *, steps: int = 30, conversations: int = 50, **options: Any
) -> str:
    """The sentence after validations, perplexities by step, of which the lowest one is kept."""
    config = FitConfig(**{"epochs": 3} | options)
    plan = RunPlan.of(config.to_dict(), 80, 64, valid_rows=conversations)
    step = min(validations, key=lambda step: validations[step], default=steps)
    best: Any = SimpleNamespace(
        before=None if before is None else measured(before, conversations),
        result=measured(validations[step], conversations) if validations else None,
        step=step,
        guard=None,
    )
    history = [
        {"step": at, "eval_loss": math.log(value), "eval_perplexity": value} for at, value in validations.items()
    ]
    return verdict(best, plan, config, history, steps)


@pytest.mark.parametrize(
    ("before", "validations", "options", "expected"),
    [
        (
            60.0, {10: 30.0, 20: 25.0, 30: 20.0}, {},
            "Better: validation perplexity fell from 60.00 to 20.00, by 67%; it was still falling at the end, so more "
            "training may help: epochs=6.",
        ),
        (
            60.0, {15: 30.0, 30: 20.0}, {"max_steps": 30},
            "Better: validation perplexity fell from 60.00 to 20.00, by 67%; it was still falling at the end, so more "
            "training may help: max_steps=60.",
        ),
        (
            2345.0, {10: 30.0, 20: 20.0, 30: 21.0}, {},
            "Better: validation perplexity fell from 2,345 to 20.00, by more than 99%; training beyond step 20 did "
            "not improve it.",
        ),
        (60.0, {20: 59.81, 30: 59.8}, {}, "Better: validation perplexity fell from 60.00 to 59.80, by less than 1%."),
        (
            60.0, {10: 64.0, 20: 61.5}, {},
            "Not better than before: validation perplexity was 60.00 and is 61.50; keep the model that you started "
            "from, or train again: a lower learning_rate (now 5e-05) or more conversations may help.",
        ),
        (
            60.0, {0: 60.0, 10: 61.0, 20: 64.0}, {"learning_rate": 1e-3},
            "No better than before: validation perplexity was 60.00 before and at best 61.00 after. The model was kept "
            "as it was; a lower learning_rate (now 0.001) or more conversations may help.",
        ),
        (
            60.0, {0: 60.0, 10: 60.0, 20: 60.1}, {"learning_rate": 1e-9},
            "No better than before: validation perplexity was 60.00 before and at best 60.00 after. The model was kept "
            "as it was; another learning_rate (now 1e-09) or more conversations may help.",
        ),
        (None, {10: 30.0}, {}, "Validation perplexity is 30.00; before the run it was not measured."),
        (
            None, {}, {},
            "Nothing was measured, so it is not known whether the model is better than before: pass validation data "
            "(valid), such as the valid.jsonl that `convmodel import` writes.",
        ),
    ],
)  # fmt: skip
def test_the_sentence(
    before: float | None, validations: dict[int, float], options: dict[str, Any], expected: str
) -> None:
    assert says(before, validations, **options) == expected


@pytest.mark.parametrize(("count", "few"), [(1, "only 1 conversation"), (8, "only 8 conversations")])
def test_a_result_of_few_conversations_is_called_rough(count: int, few: str) -> None:
    assert says(60.0, {30: 20.0}, conversations=count) == (
        f"Better: validation perplexity fell from 60.00 to 20.00, by 67% (a rough estimate, from {few})."
    )


def test_a_batch_size_that_auto_chose_is_suggested_with_more_epochs() -> None:
    config = FitConfig()
    plan = RunPlan.of(config.to_dict(), 24, 64, valid_rows=50)
    best: Any = SimpleNamespace(before=measured(60.0), result=measured(20.0), step=252, guard=None)
    history = [{"step": at, "eval_loss": loss} for at, loss in ((240, 3.5), (252, 3.0))]

    # With a number of epochs, batches would be of 8 again, and the run would have fewer steps than this one.
    assert verdict(best, plan, config, history, 252).endswith("more training may help: epochs=42 with batch_size=2.")


def test_at_the_limit_of_auto_more_epochs_are_suggested() -> None:
    assert says(60.0, {20: 30.0, 30: 20.0}, epochs=None).endswith("more training may help: epochs=42.")


@pytest.mark.parametrize(
    ("reason", "step", "expected"),
    [
        (
            "the validation perplexity rose from 20.00 to 30.00, more than 5%", 4,
            "The run was stopped, since the validation perplexity rose from 20.00 to 30.00, more than 5%; the model "
            "after step 4 was kept.",
        ),
        ("the loss is nan", 0, "The run was stopped, since the loss is nan; the model was kept as it was."),
        (
            "", 4,
            "Validation perplexity was 60.00 before and is 59.00 after; whether responses are better, only people can "
            "judge: convmodel compare.",
        ),
    ],
)  # fmt: skip
def test_the_sentence_of_a_run_on_judgements(reason: str, step: int, expected: str) -> None:
    config = FitConfig(objective="kto")
    best: Any = SimpleNamespace(
        before=measured(60.0), result=measured(59.0), step=step, guard=SimpleNamespace(reason=reason)
    )

    assert verdict(best, RunPlan.of(config.to_dict(), 80, 64), config, [], 30) == expected


def test_the_log_says_why_a_run_ended_before_its_last_step() -> None:
    plan = RunPlan.of(FitConfig().to_dict(), 80, 64, valid_rows=50)
    best: Any = SimpleNamespace(exhausted=True, guard=None, step=20)

    assert ended_early(best, plan, 30) == (
        "the run ended after step 30 of at most 210: validation was no better at the end of a cycle"
    )
    assert ended_early(best, plan, 50) == (
        "the run ended after step 50 of at most 210: no validation since step 20 was better (early_stopping_patience 2)"
    )
    assert ended_early(best, plan, 210) == ""
    best.exhausted = False
    assert ended_early(best, plan, 30) == ""
