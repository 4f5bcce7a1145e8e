"""The doctor's examination of a run before it begins, in order.

Owns: adding what could not be read to the summary, and which findings make a measurement pointless.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from convmodel.conversation import Conversation
from convmodel.data.reading.problems import Problems
from convmodel.data.windows.encoding import WindowSet, encode_windows
from convmodel.data.windows.order import packed_order
from convmodel.layout.architecture import window_length
from convmodel.layout.sequence import LossOn
from convmodel.layout.tokenizer import ConversationTokenizer
from convmodel.training.doctor.amount import check_amount
from convmodel.training.doctor.checks import Check, fast_checks
from convmodel.training.doctor.estimate import Estimate, check_memory, estimate
from convmodel.training.doctor.repeats import repeat_checks
from convmodel.training.doctor.run_plan import RunPlan
from convmodel.training.doctor.statistics import Statistics
from convmodel.training.fit_data import supervised
from convmodel.training.roles import settle_roles

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, slots=True)
class Part:
    """All conversations of one source, since comparing them takes more than one pass, and what could not be read."""

    conversations: list[Conversation]
    problems: Problems

    def windows(self, tokenizer: ConversationTokenizer, max_length: int, loss_on: LossOn) -> WindowSet:
        """Encodes them, with a summary that includes what could not be read."""
        on_error = self.problems.on_error
        windows = encode_windows(
            self.conversations, tokenizer, max_length=max_length, loss_on=loss_on, on_error=on_error
        )
        windows.summary.add_problems(self.problems)
        return windows


@dataclass(frozen=True, slots=True)
class Examination:
    """The doctor's results; the statistics are those of the training conversations."""

    plan: RunPlan
    checks: list[Check]
    statistics: Statistics
    estimate: Estimate | None  # None if not measured

    @property
    def failed(self) -> bool:
        """Whether a check failed."""
        return any(check.status == "fail" for check in self.checks)


def examine(
    hf_model: "PreTrainedModel",
    tokenizer: ConversationTokenizer,
    train: Part,
    valid: Part | None,
    settings: Mapping[str, Any],
    *,
    measure: bool = True,
) -> Examination:
    """Checks data, tokenizer, model and settings, the fields of a `FitConfig` by name, before a run.

    With `measure` it also estimates time and memory, which takes a few forward and backward passes.
    """
    max_length = window_length(hf_model.config, settings["max_length"])
    loss_on = supervised(settings, tokenizer.layout.loss_on)
    settings = {**settings, "loss_on": loss_on}
    tokenizer = settle_roles(tokenizer, train.conversations, loss_on)
    windows = train.windows(tokenizer, max_length, loss_on)
    valid_windows = None if valid is None else valid.windows(tokenizer, max_length, loss_on)
    packed = settings["packing"] and packed_order(windows.lengths, max_length, seed=settings["seed"], epoch=0)
    valid_rows = 0 if valid_windows is None else len(valid_windows.windows)
    plan = RunPlan.of(settings, len(packed or windows.windows), max_length, valid_rows=valid_rows)
    statistics = Statistics.collect(train.conversations, tokenizer, loss_on=loss_on)
    checks = fast_checks(hf_model, tokenizer, windows, valid_windows, plan, statistics.supervised())
    # A model that lacks rows or positions cannot compute these windows at all.
    possible = not any(check.status == "fail" and check.name in ("vocabulary", "length") for check in checks)
    checks.append(check_amount(windows.summary))
    checks += repeat_checks(train.conversations, None if valid is None else valid.conversations)
    costs = estimate(hf_model, tokenizer, windows, plan) if measure and possible else None
    if costs is not None:
        checks.append(check_memory(costs, smaller=bool(settings["lora"]) or settings["optim"] != "adamw"))
    return Examination(plan, checks, statistics, costs)
