"""Time and memory estimate of a run that learns from judgements, measured on a few of its batches.

Owns: what such a run computes beside its steps, and how its costs follow from a few batches. Leaves the model
unchanged.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch

from convmodel.conversation import Conversation
from convmodel.data.windows.encoding import WindowSet
from convmodel.hf_model.eval_mode import evaluation_mode
from convmodel.hf_model.lm_head import Head
from convmodel.hf_model.log_probs import measure_targets
from convmodel.hf_model.lora import add_adapters, has_adapters, remove_adapters
from convmodel.layout.tokenizer import ConversationTokenizer
from convmodel.training.config import FitConfig
from convmodel.training.doctor.estimate import (
    PATIENCE,
    Estimate,
    activation_bytes,
    available_bytes,
    middles,
    seconds_per_step,
    state_bytes,
    timed,
    untouched,
    weight_bytes,
)
from convmodel.training.doctor.run_plan import RunPlan
from convmodel.training.fit_data import Sources
from convmodel.training.objectives.choose import make_objective
from convmodel.training.objectives.guard import CONTEXTS, RegressionGuard
from convmodel.training.objectives.objective import Objective
from convmodel.training.objectives.preference_data import PreferenceData
from convmodel.training.schedule import BATCH_SIZE
from convmodel.training.step.forward import prepared
from convmodel.training.step.runtime import PRECISIONS, choose_precision

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_RESPONSES = 8  # that are timed


def estimate_judgements(
    hf_model: "PreTrainedModel",
    tokenizer: ConversationTokenizer,
    sources: Sources,
    config: FitConfig,
) -> Estimate:
    """Measures a few steps of the objective on the model, which is left unchanged, and extrapolates to the run.

    Time: a long, a middle and a short batch, each with its replayed windows and KTO's mismatched ones, give the seconds
    per padded token, and passes without gradients those of the reference. Each validation costs what a few of its
    windows and of its responses do, in proportion. Saving is not included, nor the
    sampling of what a model replays of itself.

    Memory: as `estimate` counts it, with what autograd keeps of the longest batch.

    Raises:
        ConversationError: If no judgement can be used.
    """
    data = PreferenceData.of(hf_model, tokenizer, sources, config)
    valid_rows = 0 if data.valid is None else len(data.valid.windows)
    plan = RunPlan.of(config.to_dict(), len(data.order), data.max_length, valid_rows=valid_rows)
    batches = _Batches(data, tokenizer, plan.batch_size)
    run = _Run(hf_model, make_objective(hf_model, tokenizer, data, config))
    dtype = PRECISIONS[choose_precision(config.precision, hf_model.device)]
    precise = torch.autocast(hf_model.device.type, dtype, enabled=dtype != torch.float32)
    seconds, reference, measured = 0.0, 0.0, 0
    with (
        _with_adapters(hf_model, tokenizer, config),
        untouched(hf_model),
        prepared(hf_model, 0.0, config.gradient_checkpointing),
        precise,
    ):
        longest = batches[batches.by_size[0]]
        totals = run.objective.totals([longest])
        activations = activation_bytes(hf_model, partial(run.loss, longest, totals), longest["input_ids"].numel())
        for number in middles(batches.by_size):
            batch = batches[number]
            seconds += timed(hf_model, partial(run.step, batch))
            reference += timed(hf_model, partial(run.evaluate, batch))
            measured += batch["input_ids"].numel()
            hf_model.zero_grad(set_to_none=True)
            if seconds > PATIENCE:
                break
        passes = plan.steps / math.ceil(len(batches.sizes) / config.gradient_accumulation_steps)
        padded = sum(batches.sizes) * passes
        total = seconds / measured * padded + plan.steps * seconds_per_step(hf_model)
        memory = state_bytes(hf_model) + activations
    if config.objective != "orpo":
        both = 1 if data.examples.mismatched is None else 2
        total += reference / measured * both * int(data.train.lengths.sum())
    if data.valid is not None and sources.valid is not None:
        first = [*islice(sources.valid, CONTEXTS)]
        total += plan.validations * _validation_seconds(hf_model, tokenizer, data.valid, first)
    tokens = round(batches.tokens * passes)
    return Estimate(
        plan.steps,
        tokens,
        round(padded),
        total,
        memory,
        activations,
        available_bytes(hf_model),
        parameters=hf_model.num_parameters(),
        weight_bytes=weight_bytes(hf_model),
    )


def _validation_seconds(
    hf_model: "PreTrainedModel", tokenizer: ConversationTokenizer, valid: WindowSet, first: Sequence[Conversation]
) -> float:
    """Times windows of middle lengths and a few responses, and scales to all windows, and responses to `first`."""
    by_length = valid.lengths.argsort()
    start = max(0, (len(by_length) - BATCH_SIZE) // 2)
    chosen = by_length[start : start + BATCH_SIZE]
    windows = [valid.windows[index] for index in chosen]
    guard = RegressionGuard(0.0, first[:_RESPONSES])
    with evaluation_mode(hf_model), torch.no_grad():
        measure = partial(measure_targets, hf_model, tokenizer, windows, head=Head.of(hf_model), allow_nan=True)
        few = timed(hf_model, measure)
        responding = timed(hf_model, partial(guard.respond, hf_model, tokenizer))
    measuring = few * int(valid.lengths.sum()) / int(valid.lengths[chosen].sum())
    return measuring + responding * len(first) / min(_RESPONSES, len(first))


@contextmanager
def _with_adapters(hf_model: "PreTrainedModel", tokenizer: ConversationTokenizer, config: FitConfig) -> Iterator[None]:
    """Adds the adapters that the run would train inside the block, if the model has none, and removes them again."""
    if config.lora is False or has_adapters(hf_model):
        yield
        return
    flags = [(parameter, parameter.requires_grad) for parameter in hf_model.parameters()]
    add_adapters(hf_model, tokenizer, config.lora if isinstance(config.lora, dict) else {}, seed=config.seed)
    try:
        yield
    finally:
        remove_adapters(hf_model, merge=False)
        for parameter, wanted in flags:
            parameter.requires_grad_(wanted)


@dataclass(frozen=True, slots=True)
class _Run:
    """What is timed: the parts of a step, on a model that is prepared for training."""

    hf_model: "PreTrainedModel"
    objective: Objective

    def loss(self, batch: dict[str, Any], totals: torch.Tensor) -> torch.Tensor:
        judged = {name: value.to(self.hf_model.device) for name, value in batch["judged"].items()}
        return self.objective.loss(self.hf_model, self._inputs(batch) | {"judged": judged}, totals)

    def step(self, batch: dict[str, Any]) -> None:
        self.loss(batch, self.objective.totals([dict(batch)])).backward()

    def evaluate(self, batch: dict[str, Any]) -> None:
        with evaluation_mode(self.hf_model), torch.no_grad():
            self.hf_model(**self._inputs(batch), count=len(batch["judged"]["numbers"]))

    def _inputs(self, batch: dict[str, Any]) -> dict[str, torch.Tensor]:
        others = ("judged", "mismatched", "windows", "tokens")
        return {name: value.to(self.hf_model.device) for name, value in batch.items() if name not in others}


class _Batches:
    """The batches of a run's first epoch.

    Attributes:
        sizes: The tokens of each, with padding.
        tokens: Those of all of them, without padding.
        by_size: Their numbers, the largest first.
    """

    def __init__(self, data: PreferenceData, tokenizer: ConversationTokenizer, size: int) -> None:
        self._data, self._tokenizer = data, tokenizer
        order: list[Any] = list(data.order)
        self._numbers = [order[start : start + size] for start in range(0, len(order), size)]
        self._rows = data.dataset(seed=0)
        made = [self[number] for number in range(len(self._numbers))]
        self.sizes = [batch["input_ids"].numel() for batch in made]
        self.tokens = sum(batch["tokens"] for batch in made)
        self.by_size = sorted(range(len(made)), key=lambda number: -self.sizes[number])

    def __getitem__(self, number: int) -> dict[str, Any]:
        return self._data.collate(self._tokenizer, [self._rows[index] for index in self._numbers[number]])
