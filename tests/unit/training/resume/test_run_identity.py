"""Two runs are the same where all that changes the result is: settings, data, first weights, processes."""

import copy
from pathlib import Path
from typing import Any

import pytest
import torch

from convmodel import Conversation, ConversationModel
from convmodel.data.windows.encoding import WindowSet, encode_windows
from convmodel.hf_model.fingerprint import differing_facts
from convmodel.training.config import FitConfig
from convmodel.training.resume.run_identity import WITHOUT_EFFECT, run_identity
from fine_tuning import TALKS


@pytest.fixture
def model(unigram_folder: Path) -> ConversationModel:
    return ConversationModel.from_pretrained(unigram_folder, device="cpu")


def encode(model: ConversationModel, talks: Any) -> WindowSet:
    return encode_windows(map(Conversation.of, talks), model.tokenizer, max_length=64, loss_on="all")


def identity(model: ConversationModel, talks: Any = TALKS, valid: Any = None, **options: Any) -> dict[str, Any]:
    processes = options.pop("processes", 1)
    windows = None if valid is None else encode(model, valid)
    return run_identity(model.hf_model, encode(model, talks), windows, FitConfig(**options), processes=processes)


def test_the_same_run_is_the_same(model: ConversationModel, unigram_folder: Path) -> None:
    again = ConversationModel.from_pretrained(unigram_folder, device="cpu")

    assert differing_facts(identity(model, valid=TALKS[:2]), identity(again, valid=TALKS[:2])) == []


def test_settings_that_change_nothing_may_differ(model: ConversationModel) -> None:
    free = {
        "output_dir": "elsewhere",
        "report_to": "all",
        "logging_steps": 3,
        "samples": 2,
        "save_steps": 7,
        "save_minutes": 1,
        "save_total_limit": 9,
        "resume": True,
    }

    assert set(free) == WITHOUT_EFFECT
    assert differing_facts(identity(model), identity(model, **free)) == []


def test_each_other_setting_is_named_with_both_values(model: ConversationModel) -> None:
    found = differing_facts(
        identity(model, learning_rate=1e-3, loss_on=["Ann"]),
        identity(model, learning_rate=5e-4, loss_on="all", processes=2),
    )

    assert found == [
        "learning_rate: 0.001 there, 0.0005 here",
        'loss_on: ["Ann"] there, all here',
        "processes: 1 there, 2 here",
    ]


def test_a_setting_that_the_other_version_did_not_have_is_named() -> None:
    assert differing_facts({"old": 1}, {"new": None}) == ["old: 1 there, nothing here", "new: nothing there, null here"]


@pytest.mark.parametrize(
    ("talks", "valid", "name"),
    [
        (TALKS[:-1], None, "training data"),
        (TALKS[::-1], None, "training data"),
        ([["Hello, how are you todaz?", *TALKS[0][1:]], *TALKS[1:]], None, "training data"),
        (TALKS, TALKS[:2], "validation data"),
    ],
    ids=["one less", "another order", "one letter", "validation"],
)
def test_other_data_is_named(model: ConversationModel, talks: Any, valid: Any, name: str) -> None:
    [found] = differing_facts(identity(model), identity(model, talks, valid))

    assert found.startswith(f"{name}: ")
    assert " windows " in found


def test_other_first_weights_are_named(model: ConversationModel) -> None:
    before = identity(model)
    other = copy.deepcopy(model.hf_model)
    with torch.no_grad():
        other.transformer.ln_f.bias += 1e-3

    [found] = differing_facts(before, run_identity(other, encode(model, TALKS), None, FitConfig()))

    assert found.startswith("first weights: gpt2 ")
