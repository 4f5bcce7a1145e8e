"""The best model of a run.

Owns: telling whether a validation is the best so far, keeping those weights, and bringing them back.
"""

import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from convmodel.evaluation.likelihood import EvaluationResult
from convmodel.hf_model.lora import remove_adapters
from convmodel.hf_model.saving import save_checkpoint
from convmodel.layout.tokenizer import ConversationTokenizer
from convmodel.training.sharding import restore_weights, whole_weights

if TYPE_CHECKING:
    from transformers import PreTrainedModel


_ADAPTERS = "best-adapters"

FINE_TUNED_FROM = "Fine-tuned from"
"""The line of a model card that names the model of which a run made this one; evaluation compares with it."""


class BestModel:
    """Keeps the weights of the lowest validation loss: in a folder, or in memory without one.

    Attributes:
        result: The best validation; None before the first.
        step: The update after which it was measured.
        exhausted: Whether as many validations in a row as `patience` allows brought no improvement.
    """

    def __init__(
        self,
        hf_model: "PreTrainedModel",
        tokenizer: ConversationTokenizer,
        folder: str | None,
        *,
        patience: int | None = None,
        merges: bool = False,
    ) -> None:
        """Begins with no best model.

        Args:
            hf_model: The model.
            tokenizer: Its layout.
            folder: Where the best one is kept; None for memory.
            patience: Validations without improvement after which it is exhausted.
            merges: Whether adapters are merged in the end. Till then they are beside the place of the whole model, so
                that a run killed in between finds them again.
        """
        self.result: EvaluationResult | None = None
        self.step = 0
        self.exhausted = False
        self._hf_model = hf_model
        self._base = str(hf_model.name_or_path)  # of which nothing is known after the run
        self._tokenizer = tokenizer
        self._place = folder
        self._folder = str(Path(folder, _ADAPTERS)) if folder is not None and merges else folder
        self._patience = patience or math.inf
        self._worse = 0
        self._weights: dict[str, torch.Tensor] = {}

    def consider(self, result: EvaluationResult, step: int, *, save: bool) -> None:
        """Keeps the model if the validation is better than all before.

        Args:
            result: The validation.
            step: The update after which it was measured.
            save: Whether this process is the one that writes.
        """
        if self.result is None or result.loss < self.result.loss:
            self._worse = 0
            self.keep(result, step, save=save)
            return
        self._worse += 1
        self.exhausted = self._worse >= self._patience

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
        """Adds adapters to the weights of the model in hand, and saves it whole."""
        remove_adapters(self._hf_model, merge=True)
        if self._place is not None and save:
            self._save(self._place)

    def forget(self) -> None:
        """Deletes what was only needed while the run was not finished."""
        if self._place is not None and self._folder != self._place:
            shutil.rmtree(str(self._folder), ignore_errors=True)

    def _save(self, folder: str, weights: dict[str, torch.Tensor] | None = None) -> None:
        facts = {FINE_TUNED_FROM: f"`{self._base}`"} if self._base else {}
        facts["Updates"] = f"{self.step:,}"
        if self.result is not None:
            facts["Validation perplexity"] = f"{self.result.perplexity:.2f} per token of this vocabulary"
            facts["Validation bits per byte"] = f"{self.result.bits_per_byte:.3f}"
        save_checkpoint(self._hf_model, self._tokenizer, folder, facts=facts, weights=weights)

    def _trained(self) -> Iterator[tuple[str, torch.Tensor]]:
        """Names what a run changes: of a model with adapters these alone."""
        yield from ((name, value) for name, value in self._hf_model.named_parameters() if value.requires_grad)

    def to_dict(self) -> dict[str, Any]:
        """What is known of the validations so far, for a checkpoint; the weights are in the folder."""
        return {
            "result": None if self.result is None else self.result.to_dict(),
            "step": self.step,
            "worse": self._worse,
            "exhausted": self.exhausted,
        }

    def load_dict(self, known: dict[str, Any]) -> None:
        """Takes over what `to_dict` returned."""
        self.result = None if known["result"] is None else EvaluationResult(**known["result"])
        self.step, self._worse, self.exhausted = known["step"], known["worse"], known["exhausted"]

    def restore(self, step: int) -> None:
        """Puts the kept weights back into the model, unless they are those of this, the last, update."""
        if step == self.step:
            return
        if self._folder is not None:
            restore_weights(self._hf_model, self._folder)
            return
        with torch.no_grad():
            for name, value in self._trained():
                value.copy_(self._weights[name])
