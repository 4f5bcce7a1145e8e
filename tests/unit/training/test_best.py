"""The best model: the lowest validation loss is kept, in a folder or in memory, and comes back."""

import json
from pathlib import Path

import pytest
import torch

from convmodel import ConversationModel
from convmodel.evaluation.likelihood import EvaluationResult
from convmodel.training.best import BestModel


@pytest.fixture
def model(unigram_folder: Path) -> ConversationModel:
    return ConversationModel.from_pretrained(unigram_folder, device="cpu")


def measured(loss: float) -> EvaluationResult:
    return EvaluationResult(
        loss=loss, perplexity=8.5, bits_per_byte=1.25, tokens=1, text_bytes=1, conversations=1, windows=1
    )


def set_weights(model: ConversationModel, value: float) -> None:
    with torch.no_grad():
        for parameter in model.hf_model.parameters():
            parameter.fill_(value)


def weights_are(hf_model: torch.nn.Module, value: float) -> bool:
    return all(bool((parameter == value).all()) for parameter in hf_model.parameters())


@pytest.mark.parametrize("keeps", ["in memory", "in a folder"])
def test_the_weights_of_the_lowest_loss_come_back(model: ConversationModel, tmp_path: Path, keeps: str) -> None:
    best = BestModel(model.hf_model, model.tokenizer, None if keeps == "in memory" else str(tmp_path))

    for step, loss in enumerate([3.0, 1.0, 2.0], 1):
        set_weights(model, float(step))
        best.consider(measured(loss), step, save=True)
    best.restore(3)

    assert (best.result, best.step) == (measured(1.0), 2)
    assert weights_are(model.hf_model, 2.0)
    assert model.hf_model.lm_head.weight is model.hf_model.transformer.wte.weight  # still tied


def test_the_last_weights_stay_where_they_are_the_best(model: ConversationModel) -> None:
    best = BestModel(model.hf_model, model.tokenizer, None)

    for step, loss in enumerate([3.0, 1.0], 1):
        set_weights(model, float(step))
        best.consider(measured(loss), step, save=True)
    best.restore(2)

    assert weights_are(model.hf_model, 2.0)


def test_a_folder_holds_the_best_model_at_every_moment(model: ConversationModel, tmp_path: Path) -> None:
    best = BestModel(model.hf_model, model.tokenizer, str(tmp_path))

    for step, (loss, expected) in enumerate([(3.0, 1.0), (1.0, 2.0), (2.0, 2.0), (0.5, 4.0)], 1):
        set_weights(model, float(step))
        best.consider(measured(loss), step, save=True)

        assert weights_are(ConversationModel.from_pretrained(tmp_path, device="cpu").hf_model, expected)

    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "| Steps | 4 |" in card
    assert "| Validation perplexity | 8.50 per token of this vocabulary |" in card
    assert "| Validation bits per byte | 1.250 |" in card


def test_a_cycle_whose_last_validation_is_not_the_best_is_the_last_one(model: ConversationModel) -> None:
    best = BestModel(model.hf_model, model.tokenizer, None, patience=3, cycles=(2, 5))

    ended = []
    for step, loss in enumerate([3.0, 2.0, 2.5, 1.9, 1.95], 1):
        best.consider(measured(loss), step, save=True)
        ended.append(best.exhausted)

    assert ended == [False, False, False, False, True]


def test_a_process_that_does_not_write_writes_nothing(model: ConversationModel, tmp_path: Path) -> None:
    best = BestModel(model.hf_model, model.tokenizer, str(tmp_path))

    best.consider(measured(1.0), 1, save=False)

    assert list(tmp_path.iterdir()) == []
    assert best.result == measured(1.0)


@pytest.mark.parametrize(
    ("losses", "patience", "exhausted"),
    [
        ([2.0, 3.0], 1, True),
        ([2.0, 2.0], 1, True),  # as good is not better
        ([2.0, 1.0], 1, False),
        ([2.0, 3.0], 2, False),
        ([2.0, 3.0, 1.0, 4.0], 2, False),  # an improvement begins the count again
        ([2.0, 3.0, 1.0, 4.0, 5.0], 2, True),
        ([2.0, 3.0, 4.0, 5.0, 6.0], None, False),
    ],
)
def test_patience_counts_validations_in_a_row_without_improvement(
    model: ConversationModel, losses: list[float], patience: int | None, exhausted: bool
) -> None:
    best = BestModel(model.hf_model, model.tokenizer, None, patience=patience)

    for step, loss in enumerate(losses, 1):
        best.consider(measured(loss), step, save=True)

    assert best.exhausted is exhausted


def test_without_validation_the_last_model_is_kept(model: ConversationModel, tmp_path: Path) -> None:
    best = BestModel(model.hf_model, model.tokenizer, str(tmp_path))

    best.keep(None, 7, save=True)

    assert (best.result, best.step) == (None, 7)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "| Steps | 7 |" in card
    assert "perplexity" not in card


def test_what_is_known_of_validations_goes_into_a_checkpoint_and_back(model: ConversationModel, tmp_path: Path) -> None:
    losses = [2.0, 1.0, 3.0, 4.0]
    one = BestModel(model.hf_model, model.tokenizer, str(tmp_path), patience=2)
    other = BestModel(model.hf_model, model.tokenizer, str(tmp_path), patience=2)
    for step, loss in enumerate(losses[:3], 1):
        one.consider(measured(loss), step, save=False)

    other.load_dict(json.loads(json.dumps(one.to_dict())))
    other.consider(measured(losses[3]), 4, save=False)

    assert (other.result, other.step, other.exhausted) == (measured(1.0), 2, True)


def test_before_the_first_validation_nothing_is_known(model: ConversationModel) -> None:
    one, other = (BestModel(model.hf_model, model.tokenizer, None) for _ in range(2))

    other.load_dict(one.to_dict())

    assert (other.result, other.step, other.exhausted) == (None, 0, False)
