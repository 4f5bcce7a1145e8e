"""Learning from judgements: KTO, DPO and ORPO over the batches of `PreferenceData`.

Owns: which formula gets which log-probabilities, the divisors of a step, KTO's estimate of how far the model has moved,
and the metrics. The formulas themselves are in `formulas.py`.
"""

import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from convmodel.hf_model.eval_mode import evaluation_mode
from convmodel.training.config import FitConfig
from convmodel.training.metrics_reader import PREFERENCE
from convmodel.training.objectives.formulas import dpo_loss, kto_loss, orpo_loss
from convmodel.training.objectives.objective import Reduce
from convmodel.training.objectives.preference_data import PreferenceData
from convmodel.training.objectives.reference import Reference

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)


class Totals(NamedTuple):
    """The divisors of a step, and KTO's estimate.

    Attributes:
        weight: The weight of all pairs; for KTO of all responses.
        chosen_tokens: The targets of chosen responses, each with its judgement's weight.
        replayed_tokens: The targets of replayed conversations, each with its turn's weight.
        mismatched: The sum of ln(p / p_reference) over contexts with another's response.
        mismatches: How many of them.
    """

    weight: torch.Tensor
    chosen_tokens: torch.Tensor
    replayed_tokens: torch.Tensor
    mismatched: torch.Tensor
    mismatches: torch.Tensor

    @property
    def kl(self) -> torch.Tensor:
        """How far the model is from the reference: the mean of ln(p / p_reference), at least 0."""
        return (self.mismatched / self.mismatches.clamp(min=1)).clamp(min=0)


class PreferenceObjective:
    """The loss of a step of judgements: sums over the step, divided by counts over the step.

    So batches, accumulation, packing and the number of processes change nothing but rounding.
    """

    def __init__(
        self, hf_model: "PreTrainedModel", data: PreferenceData, config: FitConfig, reference: Reference
    ) -> None:
        self.sums: torch.Tensor | None = torch.zeros(2 * len(PREFERENCE), dtype=torch.float64)
        self._hf_model = hf_model
        self._config = config
        self._reference = reference
        self._liked_weight, self._disliked_weight = 1.0, 1.0
        if config.objective == "kto":
            self._liked_weight, self._disliked_weight = side_weights(data)

    def begin(self) -> None:
        """Computes the reference's log-probabilities, unless they are known or the objective needs none."""
        if self._config.objective != "orpo":
            self._reference.compute()

    def totals(self, batches: Sequence[dict[str, Any]]) -> torch.Tensor:
        """Counts the weights and targets of a step's batches, and estimates how far the model has moved."""
        total = torch.zeros(len(Totals._fields), dtype=torch.float64)
        for batch in batches:
            judged = batch["judged"]
            chosen, rejected, weights = judged["chosen"], judged["rejected"], judged["weights"].double()
            is_chosen, is_rejected = chosen >= 0, rejected >= 0
            if self._config.objective == "kto":
                total[0] += weights @ (is_chosen.double() + is_rejected.double())
            else:
                total[0] += weights.sum()
            total[1] += weights[is_chosen] @ judged["sizes"][chosen[is_chosen]].double()
            total[2] += judged["sizes"][judged["numbers"] < 0].double().sum()
            if (mismatched := batch.pop("mismatched", None)) is not None:
                total[3:] += self._mismatched(mismatched, judged)
        return total

    def _mismatched(self, batch: dict[str, Any], judged: dict[str, torch.Tensor]) -> torch.Tensor:
        """Returns the sum and the number of ln(p / p_reference) of a batch of mismatched windows."""
        numbers = judged["numbers"][judged["numbers"] >= 0]
        counts = torch.zeros(len(numbers), dtype=torch.bool)  # a blank window has no targets
        counts[batch["segments"][:, 1:][batch["labels"][:, 1:] >= 0]] = True
        inputs = {name: value.to(self._hf_model.device) for name, value in batch.items()}
        with evaluation_mode(self._hf_model), torch.no_grad(), self._reference.precision():
            log_probs = self._hf_model(**inputs, count=len(numbers)).cpu().double()
        ratios = (log_probs - self._reference.mismatched[numbers])[counts]
        return torch.stack([ratios.sum(), counts.sum().double()])

    def loss(self, model: torch.nn.Module, inputs: dict[str, Any], totals: torch.Tensor) -> torch.Tensor:
        """Computes a batch's part of the step's loss."""
        judged = inputs.pop("judged")
        numbers, weights = judged["numbers"], judged["weights"]
        log_probs: torch.Tensor = model(**inputs, count=len(numbers))
        of_step = Totals(*totals.to(log_probs.device, torch.float32))
        ratios = log_probs - self._reference.matched.to(log_probs)[numbers.clamp(min=0)]
        loss = self._judgement_loss(log_probs, ratios, judged, of_step) / of_step.weight.clamp(min=1e-12)
        is_chosen = judged["chosen"] >= 0
        nats = -(log_probs[judged["chosen"][is_chosen]] @ weights[is_chosen])
        if share := self._supervised_share():
            loss = loss + share * nats / of_step.chosen_tokens.clamp(min=1e-12)
        if self._config.replay_weight:
            replayed = -log_probs[numbers < 0].sum()
            loss = loss + self._config.replay_weight * replayed / of_step.replayed_tokens.clamp(min=1e-12)
        self._measure(log_probs.detach(), ratios.detach(), judged, of_step)
        return loss

    def _supervised_share(self) -> float:
        """Returns the weight of the mean loss per token of chosen responses."""
        if self._config.sft_weight is not None:
            return self._config.sft_weight
        return SFT_WEIGHTS[self._config.objective]

    def _judgement_loss(
        self, log_probs: torch.Tensor, ratios: torch.Tensor, judged: dict[str, torch.Tensor], of_step: Totals
    ) -> torch.Tensor:
        """Returns the weighted sum of the objective's formula over a batch."""
        chosen, rejected, weights = judged["chosen"], judged["rejected"], judged["weights"]
        beta = self._config.beta
        if self._config.objective == "kto":
            liked, disliked = chosen >= 0, rejected >= 0
            places = torch.cat([chosen[liked], rejected[disliked]])
            is_liked = torch.arange(len(places), device=places.device) < liked.sum()
            each = torch.cat([self._liked_weight * weights[liked], self._disliked_weight * weights[disliked]])
            return kto_loss(ratios[places], is_liked, of_step.kl, beta) @ each
        if self._config.objective == "dpo":
            return dpo_loss(ratios[chosen], ratios[rejected], beta, self._config.label_smoothing) @ weights
        per_token = log_probs / judged["sizes"].clamp(min=1)
        return beta * orpo_loss(per_token[chosen], per_token[rejected]) @ weights

    def _measure(
        self, log_probs: torch.Tensor, ratios: torch.Tensor, judged: dict[str, torch.Tensor], of_step: Totals
    ) -> None:
        """Adds a batch to the sums of the metrics, each of which is followed by its count."""
        real = judged["weights"] > 0
        chosen, rejected = judged["chosen"], judged["rejected"]
        liked, disliked, pairs = real & (chosen >= 0), real & (rejected >= 0), real & (chosen >= 0) & (rejected >= 0)
        scale = 1.0 if self._config.objective == "orpo" else self._config.beta
        rewards = scale * (log_probs / judged["sizes"].clamp(min=1) if self._config.objective == "orpo" else ratios)
        margins = rewards[chosen[pairs]] - rewards[rejected[pairs]]
        measured = [  # in the order of PREFERENCE
            rewards[chosen[liked]], rewards[rejected[disliked]], margins, (margins > 0).float(),
            log_probs[chosen[liked]], log_probs[rejected[disliked]],
            of_step.kl[None] if self._config.objective == "kto" else margins[:0],
        ]  # fmt: skip
        parts = [part for values in measured for part in (values.cpu().double().sum(), len(values))]
        assert self.sums is not None
        self.sums += torch.tensor(parts, dtype=torch.float64)

    def metrics(self, loss: float, reduce: Reduce) -> dict[str, float]:
        """Returns the means since the last report: rewards, margins, how many pairs are right, log-probabilities."""
        assert self.sums is not None
        sums, self.sums = reduce(self.sums).tolist(), torch.zeros_like(self.sums)
        return {name: sums[2 * i] / sums[2 * i + 1] for i, name in enumerate(PREFERENCE) if sums[2 * i + 1]}


SFT_WEIGHTS = {"kto": 0.0, "dpo": 1.0, "orpo": 1.0}
"""The weight of the supervised loss of chosen responses, unless `sft_weight` sets it; ORPO's formula has it."""


def side_weights(data: PreferenceData) -> tuple[float, float]:
    """Returns the weights of liked and of disliked responses with which both sides together weigh the same.

    The rarer side is weighted up, as KTO's authors recommend for uneven data (arXiv:2402.01306, section 4.2). If all
    are on one side, they weigh 1.
    """
    liked = sum(example.weight for example in data.examples.examples if example.chosen is not None)
    disliked = sum(example.weight for example in data.examples.examples if example.rejected is not None)
    if not liked or not disliked:
        side = "liked" if liked else "disliked"
        logger.warning("all judged responses are %s: the model learns little from one side alone", side)
        return 1.0, 1.0
    return max(1.0, disliked / liked), max(1.0, liked / disliked)
