"""One fine-tuning run, from conversations to the best model.

Owns: the order of a run, preparing and restoring the model, and what a run returns. Does not know how a step is
computed.
"""

import logging
import random
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from functools import partial
from importlib.metadata import version
from typing import TYPE_CHECKING

import numpy as np
from transformers import TrainerCallback, TrainingArguments
from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK
from transformers.trainer_callback import PrinterCallback

from convmodel.data.reading.reader import ConversationReader
from convmodel.data.windows.encoding import windows_hash
from convmodel.errors import ConfigError, MissingExtraError
from convmodel.files.atomic import require_writable
from convmodel.hf_model.devices import own_random_state
from convmodel.hf_model.quantization import count_parameters
from convmodel.layout.tokenizer import ConversationTokenizer
from convmodel.training.arguments import training_arguments
from convmodel.training.best import BestModel
from convmodel.training.config import FitConfig
from convmodel.training.doctor.checks import BLOCKING, Check, fast_checks
from convmodel.training.doctor.run_plan import RunPlan
from convmodel.training.fit_data import FitData, Sources, require_packable, require_shared_length, supervised
from convmodel.training.fit_result import FitResult
from convmodel.training.metrics_log import MetricsFile
from convmodel.training.objectives.choose import make_objective, prepare_data
from convmodel.training.objectives.guard import RegressionGuard
from convmodel.training.packages import require_accelerate
from convmodel.training.progress import FitProgress, worsening
from convmodel.training.resume.run_folder import RunFolder
from convmodel.training.resume.run_identity import run_identity
from convmodel.training.roles import saved_speakers, settle_roles
from convmodel.training.samples import Samples
from convmodel.training.schedule import require_validation
from convmodel.training.step.forward import prepared
from convmodel.training.step.runtime import choose_precision
from convmodel.training.trainable import require_adapters, trainable
from convmodel.training.trainer import FitTrainer
from convmodel.training.update_check import leave_wrong_device
from convmodel.training.verdict import ended_early, verdict

if TYPE_CHECKING:
    from transformers import PreTrainedModel

logger = logging.getLogger(__name__)

_LOGGING_STEPS = 10  # in a run of at least 100 steps


def fit(
    hf_model: "PreTrainedModel",
    tokenizer: ConversationTokenizer,
    sources: Sources,
    config: FitConfig,
    callbacks: Sequence[TrainerCallback] = (),
) -> tuple[FitResult, ConversationTokenizer]:
    """Fine-tunes a model in place and leaves the best weights in it, in evaluation mode.

    Weights in half precision become float32. The validation chooses the best model; without it the last one is kept.
    Training on judgements, with any objective but `sft`, keeps the last model that the guard lets pass. Also returns
    the tokenizer with the settings to save: `loss_on`, `max_length`, the speakers.

    Raises:
        MissingExtraError: If accelerate is not installed.
        SaveError: If `output_dir` cannot be written.
        ConfigError: If training diverges, the warm-up is longer than the run, or `output_dir` holds another run that
            has not finished.
        StoppedError: If SIGTERM or Ctrl-C stopped the run.
    """
    config = replace(config, loss_on=supervised(config.to_dict(), tokenizer.layout.loss_on))
    require_adapters(hf_model, config)
    _check(config, sources)
    if not isinstance(callbacks, Sequence) or not all(hasattr(callback, "on_train_begin") for callback in callbacks):
        raise ConfigError(f"callbacks is {callbacks!r}: it must be a list of TrainerCallbacks of transformers")
    args = training_arguments(config, hf_model)
    if config.output_dir is not None and args.process_index == 0:
        require_writable(config.output_dir)
    tokenizer, sources = _with_roles(tokenizer, sources, config)
    with args.main_process_first(desc="encoding"):  # the others find its windows in the cache
        data = prepare_data(hf_model, tokenizer, sources, config, processes=args.world_size)
    require_shared_length(hf_model, data.train)
    plan = RunPlan.of(
        config.to_dict(), len(data.order), data.max_length, valid_rows=data.valid_rows, processes=args.world_size
    )
    config = replace(config, **plan.chosen)
    _examine(fast_checks(hf_model, tokenizer, data.train, data.valid, plan))
    tokenizer = _to_save(tokenizer, data, config)
    begin = time.perf_counter()
    with ExitStack() as stack:
        stack.enter_context(trainable(hf_model, tokenizer, config))
        if leave_wrong_device(hf_model):
            args = training_arguments(config, hf_model)
        _schedule(args, plan, config)
        scratch = stack.enter_context(tempfile.TemporaryDirectory())
        stack.enter_context(_own_random_state())
        if config.packing:
            require_packable(hf_model, tokenizer)
        # Trackers write here; without a folder of the caller's they must not leave any files.
        args.output_dir = scratch if config.report_to == "none" else config.output_dir or scratch
        best = BestModel(
            hf_model,
            tokenizer,
            config.output_dir,
            patience=config.early_stopping_patience,
            cycles=plan.cycles,
            merges=config.merge,
            guard=None if config.objective == "sft" else RegressionGuard(config.max_regression, sources.valid or ()),
        )
        run = stack.enter_context(_run_folder(hf_model, data, config, plan, args.world_size))
        observers: list[TrainerCallback] = [FitProgress(at_most=plan.may_end_early)]
        observers += _metrics(hf_model, data, config, plan, args)
        if config.output_dir is not None and args.process_index == 0:
            observers.append(Samples.of(hf_model, tokenizer, sources.valid, config))
        observers += callbacks
        objective = make_objective(hf_model, tokenizer, data, config)
        make = partial(FitTrainer, hf_model, tokenizer, args, data, best, objective, observers)
        trainer = _trainer(args, make)
        with prepared(hf_model, config.dropout, config.gradient_checkpointing, config.torch_compile):
            train_loss = trainer.fit(config, run, plan.cycles)
        if config.merge:
            best.merge(save=args.should_save)
        if run is not None and args.should_save:
            run.finish()
            best.forget()
    seconds = time.perf_counter() - begin + trainer.seconds_before
    state = trainer.state
    vocabulary = hf_model.config.get_text_config().vocab_size
    _report_end(best, plan, config, worsening(state.log_history, vocabulary), state.global_step)
    result = FitResult(
        steps=state.global_step,
        epochs=state.epoch or 0.0,
        train_loss=train_loss,
        before=best.before,
        validation=best.result,
        best_step=best.step,
        stopped_early=best.exhausted and state.global_step < state.max_steps,
        seconds=seconds,
        tokens_per_second=state.num_input_tokens_seen / seconds,
        windows=len(data.train.windows),
        left_out=data.left_out(),
        output_dir=config.output_dir,
        history=state.log_history,
        guard="" if best.guard is None else best.guard.reason,
        verdict=verdict(best, plan, config, state.log_history, state.global_step),
    )
    return result, tokenizer


def _schedule(args: TrainingArguments, plan: RunPlan, config: FitConfig) -> None:
    """Sets the arguments that depend on the data, and reports those that were chosen by it."""
    args.num_train_epochs = plan.epochs
    args.per_device_train_batch_size = args.per_device_eval_batch_size = plan.batch_size
    args.warmup_steps = plan.warmup_steps
    if config.logging_steps is None:  # a short run shows a loss, too
        steps = plan.cycles[0] if plan.cycles else plan.steps
        args.logging_steps = max(1, min(_LOGGING_STEPS, steps // 10))
    if plan.cycles and args.process_index == 0:
        logger.info(
            "epochs auto: %s (batch_size %d, warmup_steps %d, eval_steps %d, early_stopping_patience %d)",
            plan.lengths(), plan.batch_size, plan.warmup_steps,
            config.eval_steps, config.early_stopping_patience,
        )  # fmt: skip


def _report_end(best: BestModel, plan: RunPlan, config: FitConfig, worse: str, steps: int) -> None:
    """Logs what stopped the run, and a loss that rose."""
    if best.guard is not None and best.guard.reason:
        kept = f"the model after step {best.step:,} is kept" if best.step else "the model is what it was before the run"
        logger.warning("the run was stopped after step %d: %s; %s", steps, best.guard.reason, kept)
        return
    if worse:
        kept = "the last weights are kept"
        if best.result is not None:
            kept = f"the best weights, after step {best.step:,}, are kept" if best.step else "it is kept as it was"
        fix = f"lower learning_rate (now {config.learning_rate:g}) or epochs"
        logger.warning("training made the model worse: %s, %s: %s", worse, kept, fix)
    if reason := ended_early(best, plan, steps):
        logger.info("%s", reason)


def _check(config: FitConfig, sources: Sources) -> None:
    """Raises an error for settings that cannot work, before any work is done."""
    require_accelerate()
    if config.report_to not in {"none", "all", *INTEGRATION_TO_CALLBACK}:
        trackers = ", ".join(sorted(INTEGRATION_TO_CALLBACK))
        raise ConfigError(f"report_to is {config.report_to!r}: it must be none, all, {trackers}")
    require_validation(config.to_dict(), validated=sources.valid is not None)
    if sources.valid is None and (config.eval_steps or config.early_stopping_patience):
        raise ConfigError("eval_steps and early_stopping_patience need validation data: pass valid too")
    if sources.valid is None and config.samples:
        raise ConfigError("samples are responses to contexts of validation data: pass valid too, or leave samples out")
    if config.replay_weight != FitConfig().replay_weight and sources.replay is None:
        raise ConfigError("replay_weight changes nothing without conversations to replay: pass replay too")
    if config.objective == "sft" and sources.replay is not None:
        raise ConfigError(
            "replay is for judgements: add the conversations to the training data, or choose an objective"
        )
    if config.objective != "sft" and sources.valid is None:
        raise ConfigError(
            f"objective {config.objective} needs validation data, conversations in which the model must not become "
            "worse: pass valid too"
        )


def _trainer(args: TrainingArguments, make: Callable[[], FitTrainer]) -> FitTrainer:
    try:
        trainer = make()
    except (RuntimeError, ImportError) as error:
        if not args.report_to:
            raise
        raise MissingExtraError(f"report_to={args.report_to} cannot be used here: {error}") from error
    trainer.remove_callback(PrinterCallback)
    return trainer


def _metrics(
    hf_model: "PreTrainedModel", data: FitData, config: FitConfig, plan: RunPlan, args: TrainingArguments
) -> list[MetricsFile]:
    if config.output_dir is None:
        return []
    begin = {
        "config": config.to_dict(),
        "windows": len(data.train.windows),
        "validation": None if data.valid is None else windows_hash(data.valid),
        "vocabulary": hf_model.config.get_text_config().vocab_size,
        "steps": plan.steps,
        "parameters": count_parameters(hf_model),
        "precision": "bf16" if args.bf16 else "fp16" if args.fp16 else "fp32",
        "version": version("convmodel"),
    } | ({"cycles": [*plan.cycles]} if plan.cycles else {})
    return [MetricsFile(config.output_dir, begin)]


def _with_roles(
    tokenizer: ConversationTokenizer, sources: Sources, config: FitConfig
) -> tuple[ConversationTokenizer, Sources]:
    """Returns a tokenizer whose roles are those of the model to save, and sources that can be read once more."""
    if config.objective != "sft" or tokenizer.layout.template is None:  # judgements say nothing about speakers
        return tokenizer, sources
    train = ConversationReader.of(sources.train).repeatable()
    loss_on = supervised(config.to_dict(), tokenizer.layout.loss_on)
    return settle_roles(tokenizer, train, loss_on), sources._replace(train=train)


def _to_save(tokenizer: ConversationTokenizer, data: FitData, config: FitConfig) -> ConversationTokenizer:
    """Returns the tokenizer with the settings to save; judgements say nothing about what is supervised."""
    if config.objective != "sft":
        return tokenizer
    speakers = saved_speakers(tokenizer, data.train.summary.speakers)
    return tokenizer.with_layout(loss_on=config.loss_on, max_length=data.max_length, speakers=speakers)


def _examine(checks: Sequence[Check]) -> None:
    """Logs the findings of the quick checks.

    Raises:
        ConfigError: If a check in `BLOCKING` failed.
    """
    for check in checks:
        if check.status == "fail" and check.name in BLOCKING:
            raise ConfigError(f"{check.finding}: {check.fix}")
        if check.status != "pass" and check.name not in ("supervised", "used", "cut"):  # logged for each part already
            logger.warning("%s: %s; %s", check.name, check.finding, check.fix)


@contextmanager
def _run_folder(
    hf_model: "PreTrainedModel", data: FitData, config: FitConfig, plan: RunPlan, processes: int
) -> Iterator[RunFolder | None]:
    """Opens the folder of the run's checkpoints, if there is one, and unlocks it afterwards."""
    if config.output_dir is None:
        yield None
        return
    identity = run_identity(hf_model, data.train, data.valid, config, processes=processes)
    identity |= data.identity()
    if plan.cycles:
        identity["cycles"] = [*plan.cycles]  # the learning rate depends on them
    identity["precision"] = choose_precision(config.precision, hf_model.device)  # auto may differ on another machine
    with closing(RunFolder(config.output_dir, identity, limit=config.save_total_limit)) as run:
        yield run


@contextmanager
def _own_random_state() -> Iterator[None]:
    """Restores the global random generators, which `Trainer` seeds, for the caller."""
    python, numpy = random.getstate(), np.random.get_state()
    with own_random_state():
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
