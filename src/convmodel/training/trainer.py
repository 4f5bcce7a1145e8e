"""transformers' `Trainer`, with convmodel's windows, loss and validation.

Owns: what differs from `Trainer`, and nothing of what it already does (optimizer, schedule, devices, trackers).
"""

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch.utils.data import DataLoader
from transformers import TrainerCallback, TrainingArguments

from convmodel.data.windows.collate import WindowDataset, pack, pad
from convmodel.data.windows.order import PackedSampler, ShardedBatches
from convmodel.errors import ConfigError
from convmodel.evaluation.likelihood import evaluate_windows
from convmodel.hf_model.log_probs import token_nats
from convmodel.layout.sequence import IGNORED, Window
from convmodel.layout.tokenizer import ConversationTokenizer
from convmodel.training.best import BestModel
from convmodel.training.fit_data import FitData
from convmodel.training.resume.resumable_trainer import ResumableTrainer
from convmodel.training.sharding import is_sharded, reshard
from convmodel.training.step.forward import plain_forward


class FitTrainer(ResumableTrainer):
    """A `Trainer` of windows: token-exact loss, exact validation, and the best model kept by `BestModel`.

    The model must compute its loss itself: see `computing_loss`.
    """

    def __init__(
        self,
        hf_model: Any,
        tokenizer: ConversationTokenizer,
        args: TrainingArguments,
        data: FitData,
        best: BestModel,
        callbacks: Sequence[TrainerCallback],
    ) -> None:
        self._hf_model = hf_model
        self._data = data
        self._tokens_before = 0
        self._recent: list[tuple[torch.Tensor, list[Window]]] = []
        self._pace = Pace()
        super().__init__(
            tokenizer=tokenizer,
            best=best,
            model=hf_model,
            args=args,
            data_collator=self._collate,
            train_dataset=WindowDataset(data.train.windows),
            eval_dataset=WindowDataset(data.valid.windows) if data.valid else None,
            callbacks=list(callbacks),
        )
        # Makes `Trainer` leave the division by the weight of a whole update to `compute_loss`.
        self.model_accepts_loss_kwargs = True

    def get_train_dataloader(self) -> DataLoader[Any]:
        """Gives this process's share of the windows, in an order that depends on the seed and the epoch only."""
        args = self.args
        batches = ShardedBatches(
            self._data.order, args.per_device_train_batch_size, rank=args.process_index, world=args.world_size
        )
        return _EpochLoader(
            WindowDataset(self._data.train.windows),
            batch_sampler=batches,
            collate_fn=self._collate,
            pin_memory=args.dataloader_pin_memory,
            generator=torch.Generator(),  # a loader draws a number that it has no use for; not from the run's generator
        )

    def _collate(self, rows: list[list[Window]]) -> dict[str, Any]:
        types, pad_id = self._tokenizer.layout.use_token_types, self._tokenizer.pad_token_id
        windows = [window for row in rows for window in row]
        if isinstance(self._data.order, PackedSampler):
            batch: dict[str, Any] = pack(rows, pad_id, use_token_types=types, multiple=_multiple(self._data.max_length))
        else:
            longest = max(len(window.input_ids) for window in windows)
            batch = pad(windows, pad_id, use_token_types=types, multiple=_multiple(longest))
        batch["windows"] = windows
        learned = (window for window in windows if window.supervised_tokens)  # a blank row counts for nothing
        batch["tokens"] = sum(len(window.input_ids) for window in learned)
        return batch

    def _get_num_items_in_batch(self, batch_samples: list[dict[str, Any]], device: torch.device) -> torch.Tensor:
        """Sums the weights of an update's targets over its batches and all processes."""
        total = torch.zeros((), dtype=torch.float64)
        tokens = 0
        for batch in batch_samples:
            weights = batch.get("weights")
            total += (batch["labels"][:, 1:] != IGNORED).sum() if weights is None else weights[:, 1:].double().sum()
            tokens += batch.pop("tokens")
        if self.args.world_size > 1:
            both = torch.tensor([total, tokens], dtype=torch.float64, device=device)
            total, all_tokens = self.accelerator.reduce(both, reduction="sum").cpu()
            tokens = int(all_tokens)
        self.state.num_input_tokens_seen += tokens
        return total

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> Any:
        """Computes the loss of one batch, as its share of the update's mean over supervised tokens."""
        windows = inputs.pop("windows")
        # The weight is that of all processes, whose gradients are averaged.
        loss = model(**inputs, total_weight=float(num_items_in_batch or 0)) * self.accelerator.num_processes
        self._recent.append((loss.detach(), windows))
        return loss

    def _get_grad_norm(self, model: torch.nn.Module, grad_norm: Any = None) -> Any:
        """Stops before an update that would make the weights no numbers any more.

        Raises:
            ConfigError: If a loss or the gradient's length is not finite.
        """
        recent, self._recent = self._recent, []
        for loss, windows in recent:
            if not loss.isfinite():
                self._hf_model.zero_grad(set_to_none=True)
                raise self._diverged(f"the loss is {loss.item()}", windows)
        norm = super()._get_grad_norm(model, grad_norm=grad_norm)  # type: ignore[no-untyped-call]
        if norm is not None and not math.isfinite(norm) and not self.args.fp16:  # fp16 skips such updates by itself
            self._hf_model.zero_grad(set_to_none=True)
            raise self._diverged("the gradient is not finite", [window for _, windows in recent for window in windows])
        return norm

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Validates with the same code as `ConversationModel.evaluate`."""
        if self._data.valid is None:
            return {}
        begin = time.perf_counter()
        with plain_forward(self._hf_model):
            result = evaluate_windows(
                self._hf_model, self._tokenizer, self._data.valid, batch_size=self.args.eval_batch_size
            )
        reshard(self._hf_model)
        if self.args.world_size > 1:  # all decide by the same numbers, to the last bit
            numbers = torch.tensor([result.loss, result.perplexity, result.bits_per_byte], dtype=torch.float64)
            torch.distributed.broadcast(numbers := numbers.to(self.args.device), src=0)
            loss, perplexity, bits = numbers.tolist()
            result = replace(result, loss=loss, perplexity=perplexity, bits_per_byte=bits)
        metrics = {
            f"{metric_key_prefix}_loss": result.loss,
            f"{metric_key_prefix}_perplexity": result.perplexity,
            f"{metric_key_prefix}_bits_per_byte": result.bits_per_byte,
            f"{metric_key_prefix}_runtime": time.perf_counter() - begin,
            "tokens": self.state.num_input_tokens_seen,
        }
        self.log(metrics)
        self._best.consider(result, self.state.global_step, save=self.args.should_save)
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        self.control.should_training_stop |= self._best.exhausted
        self._pace.pause(time.perf_counter() - begin)
        return metrics

    def restore_counts(self) -> None:
        """Begins to measure the pace, too."""
        super().restore_counts()
        self._pace.begin(self.state.num_input_tokens_seen)

    def finish(self) -> None:
        """Validates the last update unless that was done, and leaves the best weights in the model."""
        if self._data.valid is None:
            if not all(parameter.isfinite().all() for parameter in self._hf_model.parameters()):
                raise self._diverged("the loss is nan")
            self._best.keep(None, self.state.global_step, save=self.args.should_save)
            return
        if not any("eval_loss" in log and log["step"] == self.state.global_step for log in self.state.log_history):
            self.evaluate()
        self._best.restore(self.state.global_step)

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Passes measurements on, unless the loss is no number any more.

        Training losses come with their perplexity, the tokens so far, and the speed since the last of them.

        Raises:
            ConfigError: If the loss is not finite.
        """
        for name in ("loss", "eval_loss", "train_loss"):
            if not math.isfinite(logs.get(name, 0.0)):
                raise self._diverged(f"the loss is {logs[name]}")
        if "loss" in logs:
            tokens = self.state.num_input_tokens_seen
            logs |= {
                "perplexity": math.exp(min(logs["loss"], 700.0)),
                "tokens": tokens,
                "tokens_per_second": self._pace.since_last(tokens),
            }
        super().log(logs, start_time)

    def _diverged(self, what: str, windows: Sequence[Window] = ()) -> ConfigError:
        """Says where training diverged: before which update and, if some of its windows are to blame, in which."""
        # A spread model computes only where all processes do, and the others may know of nothing.
        examined = [] if is_sharded(self._hf_model) else windows
        with plain_forward(self._hf_model):
            alone = [token_nats(self._hf_model, self._tokenizer, [window])[0].sum() for window in examined]
        blamed = [window for window, nats in zip(examined, alone, strict=True) if not nats.isfinite()] or windows
        where = f" in {_names(blamed)}" if windows else ""
        return ConfigError(
            f"{what}{where} at update {self.state.global_step + bool(windows)}: training has diverged; "
            f"lower learning_rate (now {self.args.learning_rate:g}) or raise warmup_steps"
        )


class Pace:
    """How quickly tokens are learned, validations left out."""

    def __init__(self) -> None:
        self._tokens = 0
        self._at = time.perf_counter()

    def begin(self, tokens: int) -> None:
        """Begins to count, with so many tokens already learned."""
        self._tokens, self._at = tokens, time.perf_counter()

    def pause(self, seconds: float) -> None:
        """Leaves out the seconds that just passed."""
        self._at += seconds

    def since_last(self, tokens: int) -> float:
        """Returns tokens a second since the last call, given how many there are now."""
        now = time.perf_counter()
        speed = (tokens - self._tokens) / max(now - self._at, 1e-9)
        self._tokens, self._at = tokens, now
        return speed


class _EpochLoader(DataLoader[Any]):
    """A loader that passes the epoch on to the order of its batches, as `Trainer` expects it of one."""

    def set_epoch(self, epoch: int) -> None:
        """Chooses the epoch whose batches come next."""
        batches: Any = self.batch_sampler
        batches.set_epoch(epoch)


def _multiple(length: int) -> int:
    """Returns what batches of about this length are padded to a multiple of.

    Few lengths are few shapes of products, of which oneDNN keeps what it has compiled: memory stays flat.
    """
    return 1 << max(0, length.bit_length() - 5)  # a sixteenth of it at most


_NAMED = 3


def _names(windows: Sequence[Window]) -> str:
    """Names the conversations that windows come from."""
    distinct = list(dict.fromkeys(window.source for window in windows))
    more = f" and {len(distinct) - _NAMED} more" if len(distinct) > _NAMED else ""
    return ", ".join(distinct[:_NAMED]) + more
