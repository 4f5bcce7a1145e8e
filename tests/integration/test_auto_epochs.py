"""A run that ends by itself begins as one of three epochs, is never worse than no run, and reports what it did."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import TrainerCallback

from convmodel import ConversationModel
from convmodel.errors import ConfigError
from fine_tuning import TALKS, weights

VALID = [["Good morning! Did you sleep well?", "Not really, the neighbours had a party."], ["Yes", "No"]]

Load = Callable[..., ConversationModel]


class CopyAt(TrainerCallback):
    """Copies the weights after a step, and ends the run there."""

    def __init__(self, step: int) -> None:
        self.weights: dict[str, torch.Tensor] = {}
        self._step = step

    def on_step_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        if state.global_step == self._step:
            self.weights = {name: value.detach().clone() for name, value in model.named_parameters()}
            control.should_training_stop = True


@pytest.mark.slow
def test_the_first_cycle_is_a_run_of_three_epochs(load: Load) -> None:
    options: dict[str, Any] = {"learning_rate": 1e-3, "dropout": 0.1, "seed": 5, "early_stopping_patience": 99}
    auto, given = CopyAt(33), CopyAt(33)

    load().fit(TALKS, VALID, callbacks=[auto], **options)
    load().fit(TALKS, VALID, callbacks=[given], epochs=3, batch_size=1, **options)

    assert auto.weights
    assert all(torch.equal(value, given.weights[name]) for name, value in auto.weights.items())


def test_a_run_ends_with_the_metrics_before_and_after(load: Load) -> None:
    model = load()
    before = model.evaluate(VALID)

    result = model.fit(TALKS, VALID, learning_rate=1e-2, early_stopping_patience=1)

    assert result.before is not None
    assert result.validation is not None
    assert result.before.loss == pytest.approx(before.loss, rel=1e-5)  # batches of another size round differently
    assert result.validation.loss == pytest.approx(model.evaluate(VALID).loss, rel=1e-5)
    assert result.history[0]["eval_loss"] == result.before.loss
    assert result.steps in range(11, 232, 11)
    assert result.verdict.startswith("Better: validation perplexity fell from ")
    written = result.to_dict()
    assert (written["before"], written["verdict"]) == (result.before.to_dict(), result.verdict)


def test_a_model_that_training_does_not_improve_is_kept(load: Load) -> None:
    model = load()
    before = weights(model)

    result = model.fit(TALKS, VALID, epochs="auto", learning_rate=5.0, eval_steps=2, early_stopping_patience=2)

    assert (result.steps, result.best_step, result.stopped_early) == (4, 0, True)
    assert result.validation == result.before
    assert all(torch.equal(value, before[name]) for name, value in weights(model).items())
    assert result.verdict.startswith("No better than before")


def test_a_run_of_a_given_length_keeps_the_best_of_what_it_trained(load: Load) -> None:
    result = load().fit(TALKS, VALID, epochs=1, batch_size=8, learning_rate=5.0)

    assert (result.steps, result.best_step) == (2, 2)
    assert [log["step"] for log in result.history if "eval_loss" in log] == [2]  # the first one is not logged
    assert result.before is not None
    assert result.verdict.startswith("Not better than before")


def test_without_validation_data_nothing_is_measured(load: Load) -> None:
    result = load().fit(TALKS[:3], learning_rate=1e-3)

    assert (result.steps, result.before, result.validation) == (9, None, None)
    assert result.verdict.startswith("Nothing was measured")
    with pytest.raises(ConfigError, match="epochs is auto"):
        load().fit(TALKS[:3], epochs="auto")
