"""transformers' `Trainer`, with convmodel's windows, loss and validation.

Owns: what differs from `Trainer`, and nothing of what it already does (optimizer, schedule, devices, trackers).
"""

import math
import time
from collections.abc import Sequence
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments

from convmodel.data.batching import WindowDataset, pack, pad
from convmodel.data.ordering import GroupedSampler, PackedSampler
from convmodel.errors import ConfigError
from convmodel.evaluation.likelihood import evaluate_windows
from convmodel.layout import IGNORED, Window
from convmodel.tokenizer import ConversationTokenizer
from convmodel.training.best import BestModel
from convmodel.training.fit_data import FitData
from convmodel.training.loss import supervised_loss


class FitTrainer(Trainer):
    """A `Trainer` of windows: token-exact loss, exact validation, and the best model kept by `BestModel`."""

    def __init__(
        self,
        hf_model: Any,
        tokenizer: ConversationTokenizer,
        args: TrainingArguments,
        data: FitData,
        best: BestModel,
        callbacks: Sequence[TrainerCallback],
    ) -> None:
        self._tokenizer = tokenizer
        self._order = data.order
        self._valid = data.valid
        self._best = best
        self._validated_at = -1
        super().__init__(
            model=hf_model,
            args=args,
            data_collator=self._collate,
            train_dataset=WindowDataset(data.train.windows),
            eval_dataset=WindowDataset(data.valid.windows) if data.valid else None,
            callbacks=list(callbacks),
        )
        # Makes `Trainer` count the targets of a whole update, which `compute_loss` divides by.
        self.model_accepts_loss_kwargs = True

    def _collate(self, rows: list[list[Window]]) -> dict[str, torch.Tensor]:
        types, pad_id = self._tokenizer.layout.use_token_types, self._tokenizer.pad_token_id
        if isinstance(self._order, PackedSampler):
            return pack(rows, pad_id, use_token_types=types)
        return pad([window for row in rows for window in row], pad_id, use_token_types=types)

    def _get_train_sampler(self, train_dataset: Any = None) -> GroupedSampler | PackedSampler:
        """Gives the order, which depends on the seed and the epoch only."""
        return self._order

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Computes the loss of one batch, as its share of the update's mean over supervised tokens."""
        labels = inputs.pop("labels")
        # A cache is of no use here, and GPT-2 makes one by default.
        outputs = model(**inputs, use_cache=False)
        count = num_items_in_batch if num_items_in_batch is not None else (labels[:, 1:] != IGNORED).sum()
        # The count is over all processes, whose gradients are averaged.
        loss = supervised_loss(outputs.logits, labels, count) * self.accelerator.num_processes
        return (loss, outputs) if return_outputs else loss

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Validates with the same code as `ConversationModel.evaluate`."""
        if self._valid is None:
            return {}
        begin = time.perf_counter()
        model = self.accelerator.unwrap_model(self.model)
        result = evaluate_windows(model, self._tokenizer, self._valid, batch_size=self.args.eval_batch_size)
        metrics = {
            f"{metric_key_prefix}_loss": result.loss,
            f"{metric_key_prefix}_perplexity": result.perplexity,
            f"{metric_key_prefix}_bits_per_byte": result.bits_per_byte,
            f"{metric_key_prefix}_runtime": time.perf_counter() - begin,
        }
        self.log(metrics)
        self._validated_at = self.state.global_step
        self._best.consider(result, self.state.global_step, save=self.args.should_save)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self.control.should_training_stop |= self._best.exhausted
        return metrics

    def finish(self) -> None:
        """Validates the last update unless that was done, and leaves the best weights in the model."""
        if self._valid is None:
            model = self.accelerator.unwrap_model(self.model)
            if not all(parameter.isfinite().all() for parameter in model.parameters()):
                raise self._diverged(math.nan)
            self._best.keep(None, self.state.global_step, save=self.args.should_save)
            return
        if self._validated_at != self.state.global_step:
            self.evaluate()
        self._best.restore(self.state.global_step)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Passes measurements on, unless the loss is no number any more.

        Raises:
            ConfigError: If the loss is not finite.
        """
        for name in ("loss", "eval_loss", "train_loss"):
            if not math.isfinite(logs.get(name, 0.0)):
                raise self._diverged(logs[name])
        super().log(logs, start_time)

    def _diverged(self, loss: float) -> ConfigError:
        return ConfigError(
            f"the loss is {loss} at update {self.state.global_step}: training has diverged; "
            f"lower learning_rate (now {self.args.learning_rate:g}) or raise warmup_steps"
        )
