"""A reward model: what it learns from judgements, whatever their order, and whose it is."""

import math
import random
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from convmodel import Conversation, ConversationModel
from convmodel.data.judgements.judgement import Judgement
from convmodel.errors import ConversationError, ModelLoadError
from convmodel.hf_model.reward_model import (
    FILE,
    RewardModel,
    attach_reward_model,
    fit_reward_model,
    last_turn_window,
    load_reward_model,
    reward_model_of,
    without_reward_model,
)
from convmodel.layout.sequence import Window
from convmodel.layout.tokenizer import ConversationTokenizer

WORDS = ["I", "you", "we", "see", "like", "say", "blue", "white", "Hello", "Bye"]


def thumbs(count: int, seed: int = 0) -> list[Judgement]:
    """Responses that end in a question are liked."""
    chance, found = random.Random(seed), []
    for number in range(count):
        context = Conversation([" ".join(chance.choices(WORDS, k=3))])
        text = " ".join(chance.choices(WORDS, k=chance.randint(1, 5)))
        side = {"chosen": f"{text}?"} if number % 3 == 0 else {"rejected": f"{text}."}
        found.append(Judgement(context, "assistant", **side, kind="thumb"))
    return found


@pytest.fixture(scope="module")
def model(gpt2_folder: Path) -> ConversationModel:
    return ConversationModel.from_pretrained(gpt2_folder, device="cpu")


@pytest.fixture(scope="module")
def reward(model: ConversationModel) -> RewardModel:
    return fit_reward_model(model.hf_model, model.tokenizer, thumbs(45))


def liked(reward: RewardModel, model: ConversationModel, judgements: list[Judgement]) -> list[float]:
    windows = [last_turn_window(model.tokenizer, one, one.chosen or one.rejected or "", 64) for one in judgements]
    return reward.log_probabilities(model.hf_model, model.tokenizer, [window for window in windows if window])


def test_it_predicts_responses_that_it_has_not_seen(model: ConversationModel, reward: RewardModel) -> None:
    others = thumbs(60, seed=1)
    found = liked(reward, model, others)
    better = [value for value, one in zip(found, others, strict=True) if one.chosen]
    worse = [value for value, one in zip(found, others, strict=True) if one.rejected]

    assert sum(one > other for one in better for other in worse) > 0.9 * len(better) * len(worse)
    assert (reward.liked, reward.disliked) == (15, 30)
    assert reward.auc is not None
    assert reward.auc > 0.9
    assert reward.is_informative


def test_both_sides_weigh_the_same(model: ConversationModel) -> None:
    """If nothing distinguishes them, each response is as probably liked as not, however many there are of each."""
    context = Conversation(["Hello"])
    sides = [{"chosen": "I see"}, *[{"rejected": "I see"}] * 9]
    judgements = [Judgement(context, "assistant", **side) for side in sides]
    reward = fit_reward_model(model.hf_model, model.tokenizer, judgements)
    assert liked(reward, model, judgements[:1]) == pytest.approx([-math.log(2)], abs=1e-4)


def test_without_anything_to_learn_it_is_as_good_as_chance(model: ConversationModel) -> None:
    chance = random.Random(3)
    judgements = [
        Judgement(one.context, "assistant", **{chance.choice(["chosen", "rejected"]): "I see you"})
        for one in thumbs(40)
    ]
    reward = fit_reward_model(model.hf_model, model.tokenizer, judgements)
    assert reward.auc is not None
    assert not reward.is_informative


def test_neither_the_order_nor_the_batches_matter(
    model: ConversationModel, reward: RewardModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("convmodel.hf_model.reward_features.BATCH_SIZE", 1)
    other = fit_reward_model(model.hf_model, model.tokenizer, random.Random(1).sample(thumbs(45), 45))

    assert torch.allclose(other.weights, reward.weights, atol=1e-3 * float(reward.weights.abs().max()))
    assert other.bias == pytest.approx(reward.bias, abs=1e-2)
    assert other.auc == reward.auc


def test_responses_to_one_context_are_read_together_and_stay_in_order(
    model: ConversationModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    long = Conversation(["I see you", "You see me", "We like blue", "Hello"] * 4 + ["You"])
    judgements = thumbs(12)
    for number, text in enumerate(["I", "I see", "You like blue?", "No", "Bye", "We say so"]):
        judgements.insert(2 * number, Judgement(long, "assistant", **{("chosen", "rejected")[number % 2]: text}))
    together = fit_reward_model(model.hf_model, model.tokenizer, judgements)
    monkeypatch.setattr("convmodel.hf_model.reward_model._SHARE_CONTEXT", 100)
    alone = fit_reward_model(model.hf_model, model.tokenizer, judgements)

    assert torch.allclose(together.weights, alone.weights, atol=1e-3 * float(alone.weights.abs().max()))
    assert together.bias == pytest.approx(alone.bias, abs=1e-2)


@pytest.mark.parametrize("informative", ["of the response", "with the context"])
def test_products_with_the_context_are_used_if_they_help(
    model: ConversationModel, monkeypatch: pytest.MonkeyPatch, informative: str
) -> None:
    def features(_: object, tokenizer: ConversationTokenizer, windows: Sequence[Window]) -> torch.Tensor:
        likes = torch.tensor([[1.0 if "?" in tokenizer.decode(window.input_ids) else 0.0] for window in windows])
        length = torch.tensor([[float(len(window.input_ids))] for window in windows])
        return torch.cat([likes, length] if informative == "of the response" else [length, likes], dim=1)

    monkeypatch.setattr("convmodel.hf_model.reward_model.reward_features", features)
    reward = fit_reward_model(model.hf_model, model.tokenizer, thumbs(45))

    assert reward.auc == 1
    assert (reward.weights[1] != 0) == (informative == "with the context")


def test_weights_for_other_features_are_refused(model: ConversationModel, reward: RewardModel) -> None:
    damaged = replace(reward, weights=reward.weights[1:])
    with pytest.raises(ModelLoadError, match=r"weights for \d+ features: `convmodel reward` makes a new one"):
        liked(damaged, model, thumbs(1))


def test_a_pair_is_a_liked_and_a_disliked_response(model: ConversationModel) -> None:
    context = Conversation(["Hello"])
    pair = [Judgement(context, "assistant", "I see?", "I see.")]
    apart = [Judgement(context, "assistant", "I see?"), Judgement(context, "assistant", rejected="I see.")]
    one, other = (fit_reward_model(model.hf_model, model.tokenizer, each) for each in (pair, apart))

    assert torch.equal(one.weights, other.weights)
    assert (one.liked, one.disliked, one.auc) == (1, 1, None)  # of one context, none is left to predict
    assert not one.is_informative


def test_a_judgement_of_weight_zero_changes_nothing(model: ConversationModel, reward: RewardModel) -> None:
    more = [*thumbs(45), Judgement(Conversation(["Hello"]), "assistant", rejected="I see you?", weight=0.0)]
    assert torch.equal(fit_reward_model(model.hf_model, model.tokenizer, more).weights, reward.weights)


def test_a_response_longer_than_a_window_is_left_out_and_counted(
    model: ConversationModel, reward: RewardModel, caplog: pytest.LogCaptureFixture
) -> None:
    more = [*thumbs(45), Judgement(Conversation(["Hello"]), "assistant", rejected="I see " * 2000)]
    found = fit_reward_model(model.hf_model, model.tokenizer, more)

    assert torch.equal(found.weights, reward.weights)
    assert "1 responses" in caplog.text


@pytest.mark.parametrize(("side", "missing"), [("chosen", "disliked"), ("rejected", "liked")])
def test_judgements_all_one_way_are_refused(model: ConversationModel, side: str, missing: str) -> None:
    judgements = [Judgement(one.context, "assistant", **{side: "I see"}) for one in thumbs(5)]
    with pytest.raises(ConversationError, match=f"none is {missing}"):
        fit_reward_model(model.hf_model, model.tokenizer, judgements)


def test_the_model_is_left_as_it_was(model: ConversationModel) -> None:
    before = [weight.clone() for weight in model.hf_model.parameters()]
    fit_reward_model(model.hf_model, model.tokenizer, thumbs(12))

    assert all(torch.equal(one, other) for one, other in zip(before, model.hf_model.parameters(), strict=True))
    assert all(weight.grad is None for weight in model.hf_model.parameters())


def test_the_standard_error_is_that_of_hanley_and_mcneil() -> None:
    """For an AUC of 0.9 of 50 and 50: Q1 = 0.8182, Q2 = 0.8526, so the variance is 0.00103."""
    reward = RewardModel(torch.zeros(1), 0.0, "", liked=50, disliked=50, auc=0.9)
    assert reward.auc_error == pytest.approx(0.0321, abs=1e-4)


# Its model.


def test_it_is_saved_and_loaded_with_its_model(
    model: ConversationModel, reward: RewardModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    attach_reward_model(model.hf_model, reward)
    model.save_pretrained(tmp_path)
    attach_reward_model(model.hf_model, None)
    for dtype in ("float32", "bfloat16"):
        loaded = ConversationModel.from_pretrained(tmp_path, device="cpu", dtype=dtype)
        found = reward_model_of(loaded.hf_model)
        assert found is not None
        assert torch.allclose(found.weights, reward.weights, rtol=1e-6)
        assert (found.bias, found.auc, found.liked, found.disliked) == (reward.bias, reward.auc, 15, 30)

    model.save_pretrained(tmp_path)  # which has none now
    assert not (tmp_path / FILE).exists()
    reward.save(tmp_path)
    loaded = ConversationModel.from_pretrained(tmp_path, device="cpu")
    with torch.no_grad():
        loaded.hf_model.get_input_embeddings().weight.add_(1)
    load_reward_model(tmp_path, loaded.hf_model)
    assert "was made for other weights" in caplog.text
    (tmp_path / FILE).write_text("{}", encoding="utf-8")
    with pytest.raises(ModelLoadError, match="`convmodel reward` makes a new one"):
        RewardModel.load(tmp_path, model.hf_model)
    with pytest.raises(ModelLoadError, match="cannot be read"):
        RewardModel.load(tmp_path / "nowhere", model.hf_model)


def test_training_takes_it_away(gpt2_folder: Path, reward: RewardModel, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    model = ConversationModel.from_pretrained(gpt2_folder, device="cpu")
    attach_reward_model(model.hf_model, reward)
    with without_reward_model(model.hf_model):  # nothing is trained
        assert reward_model_of(model.hf_model) is None
    assert reward_model_of(model.hf_model) is reward

    model.fit([["Hello", "How are you"]], epochs=1, learning_rate=1e-2)
    assert reward_model_of(model.hf_model) is None
    assert "`convmodel reward` makes one" in caplog.text
