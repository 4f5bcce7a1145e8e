"""The methods of transformers' `Trainer` that are overridden, private ones included, are still what they were."""

import inspect
from collections.abc import Callable
from typing import Any

import pytest
from transformers import Trainer

from convmodel.training.trainer import FitTrainer

RUN_EPOCH = (
    "(self, model, epoch, train_dataloader, steps_in_epoch, num_update_steps_per_epoch, trial, ignore_keys_for_eval, "
    "start_time, resume_from_checkpoint, epochs_trained, steps_trained_in_current_epoch)"
)
LOG_SAVE_EVALUATE = (
    "(self, tr_loss, grad_norm, model, trial, epoch, ignore_keys_for_eval, start_time, learning_rate=None)"
)
OVERRIDDEN = {
    "create_scheduler": "(self, num_training_steps, optimizer=None)",
    "get_train_dataloader": "(self)",
    "_get_num_items_in_batch": "(self, batch_samples, device)",
    "compute_loss": "(self, model, inputs, return_outputs=False, num_items_in_batch=None)",
    "_get_grad_norm": "(self, model, grad_norm=None)",
    "evaluate": "(self, eval_dataset=None, ignore_keys=None, metric_key_prefix='eval')",
    "log": "(self, logs, start_time=None)",
    "_save_checkpoint": "(self, model, trial)",
    "_load_from_checkpoint": "(self, resume_from_checkpoint, model=None)",
    "_load_optimizer_and_scheduler": "(self, checkpoint)",
    "_load_scaler": "(self, checkpoint)",
    "_load_rng_state": "(self, checkpoint)",
    "_run_epoch": RUN_EPOCH,
    "_maybe_log_save_evaluate": LOG_SAVE_EVALUATE,
    "_finalize_training": "(self, trial, num_train_samples, start_time)",
}
"""Read from transformers 5.23.0, without annotations."""

ATTRIBUTES = (
    "_tr_loss",
    "_total_loss_scalar",
    "_globalstep_last_logged",
    "_initial_global_step",
    "model_accepts_loss_kwargs",
)
"""What `FitTrainer` sets or reads beside its own."""


def signature(method: Callable[..., Any]) -> str:
    """A method's parameters and their defaults; annotations are written differently by version."""
    plain = inspect.signature(method)
    parameters = [value.replace(annotation=inspect.Parameter.empty) for value in plain.parameters.values()]
    return str(plain.replace(parameters=parameters, return_annotation=inspect.Signature.empty))


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_an_overridden_method_has_the_signature_that_we_read(name: str) -> None:
    method = getattr(Trainer, name, None)

    assert method is not None, f"transformers' Trainer has no method {name} any more: see FitTrainer.{name}"
    assert signature(method) == OVERRIDDEN[name], f"transformers' Trainer.{name} has another signature: read it again"


@pytest.mark.parametrize("name", OVERRIDDEN)
def test_our_method_accepts_what_trainer_passes(name: str) -> None:
    own = inspect.signature(getattr(FitTrainer, name)).parameters
    if any(parameter.kind is inspect.Parameter.VAR_POSITIONAL for parameter in own.values()):
        assert list(own) == ["self", "args", "options"], f"FitTrainer.{name} takes neither all arguments nor named ones"
    else:
        assert signature(getattr(FitTrainer, name)) == OVERRIDDEN[name], f"FitTrainer.{name} has another signature"


def test_all_overridden_methods_are_listed() -> None:
    overridden = {name for name in vars(FitTrainer) if not name.startswith("__") and hasattr(Trainer, name)}

    assert overridden == set(OVERRIDDEN)


@pytest.mark.parametrize("name", ATTRIBUTES)
def test_trainer_still_uses_the_attributes_that_are_set(name: str) -> None:
    assert f"self.{name}" in inspect.getsource(Trainer), f"transformers' Trainer has no attribute {name} any more"
