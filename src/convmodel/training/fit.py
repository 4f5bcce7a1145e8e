"""One fine-tuning run, from conversations to the best model.

Owns: the order of a run, keeping the best model, and what a run returns.
"""

import importlib.util
import logging
import random
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from transformers import TrainerCallback, TrainingArguments
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.trainer_callback import PrinterCallback

from convmodel.conversation import Conversation
from convmodel.doctor.checks import BLOCKING, Check, fast_checks
from convmodel.doctor.plan import RunPlan
from convmodel.errors import ConfigError, MissingExtraError
from convmodel.evaluation.likelihood import EvaluationResult
from convmodel.storage import require_writable
from convmodel.tokenizer import ConversationTokenizer
from convmodel.training.best import BestModel
from convmodel.training.checkpoints import save_checkpoint
from convmodel.training.config import FitConfig
from convmodel.training.fit_data import FitData, require_packable
from convmodel.training.progress import FitProgress
from convmodel.training.trainer import FitTrainer

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class FitResult:
    """What a fine-tuning run did.

    Attributes:
        steps: Updates done.
        epochs: Passes over the training data.
        train_loss: Nats per supervised token, averaged over the run's updates.
        validation: The best validation; None where no validation data was given.
        best_step: The update after which the kept model was validated; the last one without validation.
        stopped_early: Whether `early_stopping_patience` ended the run.
        seconds: How long the run took.
        tokens_per_second: Training tokens a second, context included and padding not, validation time included.
        windows: Training windows.
        left_out: What of the training data could not be used, in a sentence; empty where all was.
        output_dir: Where the model was saved; None if it was not.
        history: What was logged, in order: losses, learning rates, validations.
    """

    steps: int
    epochs: float
    train_loss: float
    validation: EvaluationResult | None
    best_step: int
    stopped_early: bool
    seconds: float
    tokens_per_second: float
    windows: int
    left_out: str
    output_dir: str | None
    history: list[dict[str, float]] = field(default_factory=list, repr=False)


def fit(
    hf_model: "PreTrainedModel",
    tokenizer: ConversationTokenizer,
    train: Iterable[Conversation],
    valid: Iterable[Conversation] | None,
    config: FitConfig,
    callbacks: Sequence[TrainerCallback] = (),
) -> tuple[FitResult, ConversationTokenizer]:
    """Fine-tunes a model in place and leaves the best weights in it, in evaluation mode.

    Args:
        hf_model: The model; weights in half precision become float32.
        tokenizer: Its layout.
        train: What to learn from.
        valid: What to choose the best model by; without it the last one is kept.
        config: The settings.
        callbacks: Further `TrainerCallback`s.

    Returns:
        What was done, and the tokenizer with what now travels: `loss_on`, `max_length`, the speakers.

    Raises:
        MissingExtraError: If accelerate is not installed.
        SaveError: If `output_dir` cannot be written.
        ConfigError: If training diverges, or the warm-up is longer than the run.
    """
    if importlib.util.find_spec("accelerate") is None:
        raise MissingExtraError("training needs accelerate: pip install 'convmodel[train]'")
    if config.report_to not in {"none", "all", *INTEGRATION_TO_CALLBACK}:
        trackers = ", ".join(sorted(INTEGRATION_TO_CALLBACK))
        raise ConfigError(f"report_to is {config.report_to!r}: there are none, {trackers}")
    if valid is None and (config.eval_steps or config.early_stopping_patience):
        raise ConfigError("eval_steps and early_stopping_patience need validation data: give valid too")
    if config.output_dir is not None:
        require_writable(config.output_dir)
    data = FitData.prepare(hf_model, tokenizer, train, valid, config)
    plan = RunPlan.of(config.to_dict(), len(data.order), data.max_length)
    _examine(fast_checks(hf_model, tokenizer, data.train, data.valid, plan))
    tokenizer = tokenizer.with_layout(
        loss_on=config.loss_on, max_length=data.max_length, speakers=data.train.account.speakers or ()
    )
    if hf_model.dtype != torch.float32:
        logger.info("weights become float32 for training (they were %s)", hf_model.dtype)
        hf_model.float()
    if config.packing:
        require_packable(hf_model, tokenizer)
    best = BestModel(hf_model, tokenizer, config.output_dir, patience=config.early_stopping_patience)
    begin = time.perf_counter()
    try:
        with tempfile.TemporaryDirectory() as scratch, _own_random_state():
            args = _training_arguments(config, hf_model, plan, scratch)
            cadence = _Cadence(config, lambda folder: save_checkpoint(hf_model, tokenizer, folder))
            shown = [cadence, FitProgress(), *callbacks]
            try:
                trainer = FitTrainer(hf_model, tokenizer, args, data, best, shown)
            except (RuntimeError, ImportError) as error:
                if config.report_to == "none":
                    raise
                raise MissingExtraError(f"report_to={config.report_to!r} cannot be used here: {error}") from error
            trainer.remove_callback(PrinterCallback)
            output = trainer.train()
            trainer.finish()
    finally:
        hf_model.eval()
    seconds = time.perf_counter() - begin
    state = trainer.state
    tokens = int(data.train.lengths.sum(dtype=np.int64)) * (state.epoch or 0.0)
    result = FitResult(
        steps=state.global_step,
        epochs=state.epoch or 0.0,
        train_loss=output.training_loss,
        validation=best.result,
        best_step=best.step,
        stopped_early=best.exhausted and state.global_step < state.max_steps,
        seconds=seconds,
        tokens_per_second=tokens / seconds,
        windows=len(data.train.windows),
        left_out=data.train.left_out(),
        output_dir=config.output_dir,
        history=state.log_history,
    )
    return result, tokenizer


def _training_arguments(
    config: FitConfig, hf_model: "PreTrainedModel", plan: RunPlan, scratch: str
) -> TrainingArguments:
    args = TrainingArguments(
        # Trackers write here; without a folder of the caller's they must not leave one behind.
        output_dir=scratch if config.report_to == "none" else config.output_dir or scratch,
        num_train_epochs=config.epochs,
        max_steps=config.max_steps or -1,
        per_device_train_batch_size=config.batch_size,
        per_device_eval_batch_size=config.batch_size,
        gradient_accumulation_steps=config.gradient_accumulation_steps,
        learning_rate=config.learning_rate,
        warmup_steps=plan.warmup_steps,
        weight_decay=config.weight_decay,
        max_grad_norm=config.max_grad_norm,
        logging_steps=config.logging_steps,
        logging_nan_inf_filter=False,
        eval_strategy="no",
        save_strategy="no",
        report_to=config.report_to,
        seed=config.seed,
        disable_tqdm=True,
        remove_unused_columns=False,
        use_cpu=hf_model.device.type == "cpu",
        dataloader_pin_memory=hf_model.device.type == "cuda",
        # `Trainer` writes this into the model's config, which is saved; it must stay what it was.
        use_cache=getattr(hf_model.config, "use_cache", False),
    )
    if args.n_gpu > 1:
        args._n_gpu = 1  # many GPUs go through torchrun; `DataParallel` would average means
    return args


def _examine(checks: Sequence[Check]) -> None:
    """Says what the quick checks found, and ends a run that would be of no use.

    Raises:
        ConfigError: If a check failed whose failure makes the run impossible or wrong.
    """
    for check in checks:
        if check.status == "fail" and check.name in BLOCKING:
            raise ConfigError(f"{check.finding}: {check.cure}")
        if check.status != "pass" and check.name not in ("supervised", "used", "cut"):  # said of each part already
            logger.warning("%s: %s; %s", check.name, check.finding, check.cure)


class _Cadence(TrainerCallback):
    """Validates and saves copies when it is time, whatever the logging does."""

    def __init__(self, config: FitConfig, save: Callable[[Path], None]) -> None:
        self._config = config
        self._save = save

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Acts every so many updates."""
        if self._config.eval_steps and state.global_step % self._config.eval_steps == 0:
            control.should_evaluate = True
        if self._config.save_steps and state.global_step % self._config.save_steps == 0 and args.should_save:
            self._save(Path(str(self._config.output_dir), f"checkpoint-{state.global_step}"))

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Validates once an epoch, unless validations are counted in updates."""
        if not self._config.eval_steps:
            control.should_evaluate = True


@contextmanager
def _own_random_state() -> Iterator[None]:
    """Lets `Trainer` seed the global random generators and restores them, so that callers keep theirs."""
    python, numpy = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
