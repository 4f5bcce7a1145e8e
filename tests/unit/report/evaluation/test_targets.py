"""What several models are measured on: the same targets for all of them."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from convmodel import Conversation, ConversationModel
from convmodel.errors import ConfigError, ConversationError
from convmodel.report.evaluation.evaluate import evaluate_model
from convmodel.report.evaluation.model_evaluation import ModelEvaluation, Settings
from convmodel.report.evaluation.results import compare_models, make_report
from convmodel.report.evaluation.targets import common_targets

TALKS = [Conversation([f"Hello number {index}", "Hi there", "Bye"]) for index in range(8)]


@pytest.fixture
def folders(unigram_folder: Path, tmp_path: Path) -> list[str]:
    """A model that was trained on responses in short windows, and its base."""
    model = ConversationModel.from_pretrained(unigram_folder, device="cpu")
    model.tokenizer = model.tokenizer.with_layout(loss_on="responses", max_length=32)
    model.save_pretrained(tmp_path / "tuned")
    shutil.copytree(unigram_folder, tmp_path / "base")
    return [str(tmp_path / "tuned"), str(tmp_path / "base")]


def evaluated(folder: str, talks: list[Conversation], settings: Settings) -> ModelEvaluation:
    return evaluate_model(ConversationModel.from_pretrained(folder, device="cpu"), folder, talks, settings)


def test_all_models_are_measured_on_the_targets_of_the_first(folders: list[str]) -> None:
    settings, talks = common_targets(folders, TALKS, Settings())

    assert (settings.loss_on, settings.max_length, talks) == ("responses", 32, TALKS)
    models = [evaluated(folder, talks, settings) for folder in folders]
    assert {model.likelihood and model.likelihood.tokens for model in models} == {models[0].metrics[1].rows[:, 1].sum()}
    report = make_report(models, talks, settings, data={"name": "test.jsonl"})
    assert report.targets() == (
        "All models are measured on the same targets: loss_on=responses, in windows of at most 32 tokens."
    )


def test_a_given_choice_stays_and_a_single_model_keeps_its_own(folders: list[str]) -> None:
    given = Settings(loss_on="last", max_length=16)

    assert common_targets(folders, TALKS, given) == (given, TALKS)
    assert common_targets(folders[:1], TALKS, Settings()) == (Settings(), TALKS)
    with pytest.raises(ConfigError, match="max_length is 5000, but the model has"):
        common_targets(folders, TALKS, Settings(max_length=5000))


def test_metrics_of_different_targets_are_never_compared(folders: list[str]) -> None:
    first, second = (evaluated(folder, TALKS, Settings()) for folder in folders)

    with pytest.raises(ConfigError, match="were not measured on the same targets: give both the same loss_on"):
        compare_models(first, second, seed=0)


def test_conversations_that_two_models_read_differently_are_left_out(folders: list[str], smollm2_folder: Path) -> None:
    doubled = Conversation(["Hello", "Are you there?", "Yes"], ["a", "a", "b"])
    names = [folders[1], str(smollm2_folder)]

    settings, talks = common_targets(names, [TALKS[0], doubled, *TALKS[1:]], Settings())

    assert talks == TALKS
    with pytest.raises(ConversationError, match=r"no conversation has the same targets for .*: evaluate each of them"):
        common_targets(names, [doubled], settings)
    report = make_report([evaluated(name, talks, settings) for name in names], talks, settings, data={"not_alike": 1})
    assert "1 conversations whose targets differ between them are left out" in report.targets()


def test_what_one_model_cannot_use_is_left_out_for_all(folders: list[str], smollm2_folder: Path) -> None:
    three = Conversation(["Hello", "Hi", "Hey"], ["a", "b", "c"])
    names, talks = [folders[1], str(smollm2_folder)], [three, *TALKS]

    assert common_targets(names, talks, Settings(on_error="skip"))[1] == TALKS
    settings, kept = common_targets(names, talks, Settings())
    assert kept == talks
    with pytest.raises(ConversationError, match="3 speakers"):
        evaluated(names[1], kept, replace(settings, on_error="fail"))
