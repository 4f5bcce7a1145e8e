"""The best model of a run.

Owns: telling whether a validation is the best so far, keeping those weights, and bringing them back.
"""

import math
from typing import TYPE_CHECKING

import torch

from convmodel.evaluation.likelihood import EvaluationResult
from convmodel.tokenizer import ConversationTokenizer
from convmodel.training.checkpoints import save_checkpoint

if TYPE_CHECKING:
    from transformers import PreTrainedModel


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
    ) -> None:
        self.result: EvaluationResult | None = None
        self.step = 0
        self.exhausted = False
        self._hf_model = hf_model
        self._tokenizer = tokenizer
        self._folder = folder
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
            self._weights = {name: value.detach().cpu().clone() for name, value in self._hf_model.state_dict().items()}
        elif save:
            facts = {"Updates": f"{step:,}"}
            if result is not None:
                facts["Validation perplexity"] = f"{result.perplexity:.2f} per token of this vocabulary"
                facts["Validation bits per byte"] = f"{result.bits_per_byte:.3f}"
            save_checkpoint(self._hf_model, self._tokenizer, self._folder, facts=facts)

    def restore(self, step: int) -> None:
        """Puts the kept weights back into the model, unless they are those of this, the last, update."""
        if step == self.step:
            return
        if self._folder is not None:
            kept = type(self._hf_model).from_pretrained(self._folder, dtype=self._hf_model.dtype)
            self._weights = kept.state_dict()
        self._hf_model.load_state_dict(self._weights)
