"""The estimate of a run on judgements: tokens and steps counted by hand, and a model that stays as it was."""

from typing import Any

import pytest
import torch

from convmodel import Conversation, ConversationModel
from convmodel.data.judgements.judgement import Judgement
from convmodel.data.judgements.windows import encode_judgements
from convmodel.errors import ConversationError
from convmodel.training.config import FitConfig
from convmodel.training.doctor import judgement_costs
from convmodel.training.doctor.estimate import Estimate
from convmodel.training.doctor.judgement_costs import estimate_judgements
from convmodel.training.fit_data import Sources

REPLAY = [Conversation(["How are you?", "Fine, thank you. And you?", "Fine."])]


@pytest.fixture
def model(served_models: dict[str, ConversationModel]) -> ConversationModel:
    return served_models["tiny"]


def pairs(count: int) -> list[Judgement]:
    contexts = (Conversation(["Hello " * (1 + number)], ["user"]) for number in range(count))
    return [Judgement(context, "assistant", f"Hi {n}", f"Go away {n}") for n, context in enumerate(contexts)]


def estimated(
    model: ConversationModel, count: int = 5, replay: Any = None, valid: Any = None, **settings: Any
) -> Estimate:
    config = FitConfig(**{"objective": "kto", "epochs": 2, "batch_size": 2, "max_length": 64} | settings)
    return estimate_judgements(model.hf_model, model.tokenizer, Sources(pairs(count), valid, replay), config)


@pytest.mark.parametrize("objective", ["kto", "dpo", "orpo"])
def test_steps_and_tokens_are_those_of_the_run(model: ConversationModel, objective: str) -> None:
    found = estimated(model, objective=objective)

    tokens = int(encode_judgements(pairs(5), model.tokenizer, max_length=64).windows.lengths.sum())
    assert (found.steps, found.tokens) == (6, 2 * tokens)
    assert found.tokens < found.padded_tokens <= 2 * 10 * 64
    assert found.activation_bytes < found.memory_bytes
    assert 0 < found.seconds < 600


def test_replayed_windows_count_too(model: ConversationModel) -> None:
    alone, both = estimated(model), estimated(model, replay=REPLAY)

    [window] = model.tokenizer.windows(REPLAY[0], max_length=64)
    assert both.tokens == alone.tokens + 2 * 5 * len(window.input_ids)


def test_validations_take_time_too(model: ConversationModel, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that counts calls: 6 steps in 2 epochs are validated three times, with 10 windows and responses."""
    monkeypatch.setattr(judgement_costs, "timed", lambda hf_model, work: (work(), 1.0)[1])
    monkeypatch.setattr(judgement_costs, "seconds_per_step", lambda hf_model: 0.0)
    valid = [Conversation(["How are you?", "Fine."])] * 10

    alone = estimated(model).seconds
    validated, twice = (estimated(model, valid=valid, eval_steps=steps).seconds for steps in (None, 1))

    assert validated - alone == pytest.approx(3 * (10 / 8 + 10 / 8))
    assert twice - alone == pytest.approx(7 * (10 / 8 + 10 / 8))


def test_packed_rows_have_less_padding(model: ConversationModel) -> None:
    alone, packed = estimated(model, max_length=128), estimated(model, packing=True, batch_size=1, max_length=128)

    assert packed.tokens == alone.tokens
    assert packed.padded_tokens < alone.padded_tokens


def test_larger_batches_need_more_memory(model: ConversationModel) -> None:
    one, four = estimated(model, batch_size=1), estimated(model, batch_size=4)

    assert four.activation_bytes > 2 * one.activation_bytes


def test_the_model_stays_as_it_was(model: ConversationModel) -> None:
    hf_model = model.hf_model
    before = {name: value.clone() for name, value in hf_model.state_dict().items()}

    estimated(model, replay=REPLAY)

    assert all(torch.equal(before[name], value) for name, value in hf_model.state_dict().items())
    assert all(parameter.grad is None for parameter in hf_model.parameters())
    assert not hf_model.training


def test_judgements_that_do_not_fit_cannot_be_estimated(model: ConversationModel) -> None:
    thumb = Judgement(Conversation(["Hello"], ["user"]), "assistant", "Hi")
    config = FitConfig(objective="dpo", max_length=64)

    with pytest.raises(ConversationError, match="have only one response"):
        estimate_judgements(model.hf_model, model.tokenizer, Sources([thumb]), config)
