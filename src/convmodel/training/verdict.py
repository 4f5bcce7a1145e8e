"""What a run did to the model, in a sentence.

Owns: that sentence, and the one about why a run ended before its last step. Does not know how anything was measured.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from convmodel.evaluation.likelihood import EvaluationResult
from convmodel.training.best import BestModel
from convmodel.training.config import FitConfig
from convmodel.training.doctor.run_plan import RunPlan
from convmodel.training.schedule import BATCH_SIZE

FEW = 30
"""Validation conversations below which a result is called rough."""

_STILL = 0.002  # of the loss: a smaller improvement by the last validation is none
_SAME = 0.01  # of the perplexity: a smaller rise does not mean that the learning rate is too high
_PREFIX = "eval_loss"


def verdict(best: BestModel, plan: RunPlan, config: FitConfig, history: Sequence[Mapping[str, Any]], steps: int) -> str:
    """Says whether the model is better than before the run, by how much, and what may help.

    `config` are the run's settings, and `history` what was logged in its `steps` steps.
    """
    before, after = best.before, best.result
    if after is None:
        return (
            "Nothing was measured, so it is not known whether the model is better than before: pass validation data "
            "(valid), such as the valid.jsonl that `convmodel import` writes."
        )
    if best.guard is not None:
        return _of_judgements(best)
    if before is None:
        return f"Validation perplexity is {_shown(after)}; before the run it was not measured."
    rough = "" if after.conversations >= FEW else f" (a rough estimate, from {_few(after.conversations)})"
    slower = f"a lower learning_rate (now {config.learning_rate:g}) or more conversations may help"
    if best.step == 0:
        others = [log["eval_perplexity"] for log in history if _PREFIX in log and log["step"]]
        lowest = f"{_format(before.perplexity)} before and at best {_format(min(others))} after" if others else "lower"
        if others and min(others) < before.perplexity * (1 + _SAME):  # the rate may be too low just as well
            slower = slower.replace("a lower", "another")
        return (
            f"No better than before: validation perplexity was {lowest}{rough}. The model was kept as it was; {slower}."
        )
    if not after.loss < before.loss:
        return (
            f"Not better than before: validation perplexity was {_shown(before)} and is {_shown(after)}{rough}; keep "
            f"the model that you started from, or train again: {slower}."
        )
    fell = f"Better: validation perplexity fell from {_shown(before)} to {_shown(after)}"
    percent = 1 - after.perplexity / before.perplexity
    sentence = f"{fell}, by {_percent(percent)}{rough}"
    if best.step < steps:
        return f"{sentence}; training beyond step {best.step:,} did not improve it."
    if _is_improving(history):
        more = f"max_steps={2 * steps}" if config.max_steps else f"epochs={2 * plan.epochs:g}"
        if plan.batch_size != BATCH_SIZE:  # which is the default with a number of epochs or steps
            more += f" with batch_size={plan.batch_size}"
        return f"{sentence}; it was still falling at the end, so more training may help: {more}."
    return f"{sentence}."


def ended_early(best: BestModel, plan: RunPlan, steps: int) -> str:
    """Says why a run ended before its last step, as a line of the log; empty if it did not."""
    if not best.exhausted or best.guard is not None or steps >= plan.steps:
        return ""
    bound = f"the run ended after step {steps:,} of at most {plan.steps:,}"
    if steps in plan.cycles:
        return f"{bound}: validation was no better at the end of a cycle"
    patience = f"early_stopping_patience {plan.early_stopping_patience}"
    return f"{bound}: no validation since step {best.step:,} was better ({patience})"


def _of_judgements(best: BestModel) -> str:
    assert best.guard is not None
    if best.guard.reason:
        kept = f"the model after step {best.step:,} was kept" if best.step else "the model was kept as it was"
        return f"The run was stopped, since {best.guard.reason}; {kept}."
    if best.before is None or best.result is None:
        return ""
    return (
        f"Validation perplexity was {_shown(best.before)} before and is {_shown(best.result)} after; whether responses "
        "are better, only people can judge: convmodel compare."
    )


def _is_improving(history: Sequence[Mapping[str, Any]]) -> bool:
    """Returns whether the last validation is clearly better than the one before it."""
    losses = [log[_PREFIX] for log in history if _PREFIX in log]
    return len(losses) > 1 and losses[-1] < losses[-2] * (1 - _STILL)


def _few(count: int) -> str:
    return f"only {count} conversation{'' if count == 1 else 's'}"


def _percent(part: float) -> str:
    if part < 0.01:
        return "less than 1%"
    return "more than 99%" if part > 0.99 else f"{part:.0%}"


def _shown(result: EvaluationResult) -> str:
    return _format(result.perplexity)


def _format(perplexity: float) -> str:
    if perplexity >= 1e6:
        return f"{perplexity:.1e}"
    return f"{perplexity:,.0f}" if perplexity >= 1000 else f"{perplexity:.2f}"
