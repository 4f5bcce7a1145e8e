"""The best model of a run.

Owns: deciding whether a validation is the best so far, keeping those weights, and restoring them. Does not know when a
run validates.
"""

import math
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from convmodel.evaluation.likelihood import EvaluationResult
from convmodel.hf_model.lora import remove_adapters
from convmodel.hf_model.model_card import FINE_TUNED_FROM
from convmodel.hf_model.saving import save_checkpoint
from convmodel.layout.tokenizer import ConversationTokenizer
from convmodel.training.objectives.guard import RegressionGuard
from convmodel.training.sharding import restore_weights, whole_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel


_ADAPTERS = "best-adapters"


class BestModel:
    """Keeps the weights of the lowest validation loss: in a folder, or in memory without one.

    `before` is the validation before the first step; `result` is the best validation and `step` the step after which it
    was measured; `exhausted` is whether `patience` validations in a row brought no improvement, the last one of a cycle
    did not, or the `guard` stopped the run. Adapters to be merged at the end are kept in a folder beside the model
    until then, so that a killed run finds them again.
    """

    def __init__(
        self,
        hf_model: "PreTrainedModel",
        tokenizer: ConversationTokenizer,
        folder: str | None,
        *,
        patience: int | None = None,
        cycles: Collection[int] = (),
        merges: bool = False,
        guard: RegressionGuard | None = None,
    ) -> None:
        self.before: EvaluationResult | None = None
        self.result: EvaluationResult | None = None
        self.step = 0
        self.exhausted = False
        self.guard = guard
        self._hf_model = hf_model
        self._base = str(hf_model.name_or_path)  # changes during the run
        self._tokenizer = tokenizer
        self._final_folder = folder
        self._folder = str(Path(folder, _ADAPTERS)) if folder is not None and merges else folder
        self._patience = patience or math.inf
        self._cycles = cycles  # the steps at which they end
        self._worse = 0
        self._weights: dict[str, torch.Tensor] = {}

    def consider(self, result: EvaluationResult, step: int, *, save: bool) -> None:
        """Keeps the model if the validation is better than all earlier ones; `save`: this process writes files.

        With a guard, the latest model that it lets pass is kept.
        """
        if self.guard is not None:
            if self.guard.check(result):
                self.keep(result, step, save=save)
            self.exhausted = bool(self.guard.reason)
            return
        if self.result is None or result.loss < self.result.loss:
            self._worse = 0
            self.keep(result, step, save=save)
            return
        self._worse += 1
        self.exhausted = self._worse >= self._patience or step in self._cycles

    def keep(self, result: EvaluationResult | None, step: int, *, save: bool) -> None:
        """Keeps the model as it is now."""
        self.result, self.step = result, step
        if self._folder is None:
            self._weights = {name: value.detach().cpu().clone() for name, value in self._trained()}
            return
        weights = whole_weights(self._hf_model)
        if save:
            self._save(self._folder, weights)

    def merge(self, *, save: bool) -> None:
        """Merges the adapters into the weights, and saves the whole model."""
        remove_adapters(self._hf_model, merge=True)
        if self._final_folder is not None and save:
            self._save(self._final_folder)

    def forget(self) -> None:
        """Deletes the files that only an unfinished run needs."""
        if self._final_folder is not None and self._folder != self._final_folder:
            shutil.rmtree(str(self._folder), ignore_errors=True)

    def _save(self, folder: str, weights: dict[str, torch.Tensor] | None = None) -> None:
        facts = {FINE_TUNED_FROM: f"`{self._base}`"} if self._base else {}
        facts["Steps"] = f"{self.step:,}"
        if self.result is not None:
            facts["Validation perplexity"] = f"{self.result.perplexity:.2f} per token of this vocabulary"
            facts["Validation bits per byte"] = f"{self.result.bits_per_byte:.3f}"
        save_checkpoint(self._hf_model, self._tokenizer, folder, facts=facts, weights=weights)

    def _trained(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Yields the parameters that a run changes: only the adapters, if there are any."""
        yield from ((name, value) for name, value in self._hf_model.named_parameters() if value.requires_grad)

    def to_dict(self) -> dict[str, Any]:
        """Returns the state of the validations so far, for a checkpoint; the weights are in the folder."""
        return {
            "before": None if self.before is None else self.before.to_dict(),
            "result": None if self.result is None else self.result.to_dict(),
            "step": self.step,
            "worse": self._worse,
            "exhausted": self.exhausted,
        } | ({} if self.guard is None else {"guard": self.guard.to_dict()})

    def load_dict(self, state: dict[str, Any]) -> None:
        """Restores what `to_dict` returned."""
        before, result = state.get("before"), state["result"]  # convmodel 0.4.0 did not measure the first one
        self.before = None if before is None else EvaluationResult(**before)
        self.result = None if result is None else EvaluationResult(**result)
        self.step, self._worse, self.exhausted = state["step"], state["worse"], state["exhausted"]
        if self.guard is not None:
            self.guard.load_dict(state["guard"])

    def restore(self, step: int | None = None) -> None:
        """Restores the kept weights, unless they are those of this step, the last one."""
        if step == self.step:
            return
        if self._folder is not None:
            restore_weights(self._hf_model, self._folder)
            return
        with torch.no_grad():
            for name, value in self._trained():
                value.copy_(self._weights[name])
