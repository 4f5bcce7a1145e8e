"""A reward model's judgements of a model's own turns: of which turns, how sure, and the same when a run is resumed."""

import math
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from chat_templates import save_chat_model

from convmodel import Conversation, ConversationModel
from convmodel.data.judgements.judgement import Judgement
from convmodel.hf_model.reward_model import RewardModel, fit_reward_model, last_turn_window
from convmodel.layout.sequence import IGNORED, Window
from convmodel.training.own_judgements import FILE, judge_own_turns

TALKS = [
    Conversation(["Hello", "I see?", "You like it.", "Hello?"], ["user", "assistant"] * 2, weights=[0, 1, 1, 1]),
    Conversation(["Be kind", "Hi", "I say so."], ["system", "user", "assistant"], pinned=1, weights=[0, 0, 1]),
]


@pytest.fixture(scope="module")
def model(gpt2_folder: Path) -> ConversationModel:
    return ConversationModel.from_pretrained(gpt2_folder, device="cpu")


@pytest.fixture(scope="module")
def reward(model: ConversationModel) -> RewardModel:
    context = Conversation(["Hello"])
    texts = ["I see?", "Hello?", "You like it.", "I say so."]
    sides = [{"chosen" if text.endswith("?") else "rejected": text} for text in texts]
    return fit_reward_model(
        model.hf_model, model.tokenizer, [Judgement(context, "assistant", **side) for side in sides]
    )


def judged(model: ConversationModel, reward: RewardModel, folder: Path) -> list[Judgement]:
    return judge_own_turns(model.hf_model, model.tokenizer, reward, TALKS, {"assistant"}, folder)


def test_each_turn_of_the_model_is_judged_in_its_context(
    model: ConversationModel, reward: RewardModel, tmp_path: Path
) -> None:
    """In the separator layout, the turns of both speakers are the model's."""
    found = judged(model, reward, tmp_path)
    expected = [(["Hello"], "I see?"), (["Hello", "I see?"], "You like it."), (TALKS[0].turns[:3], "Hello?")]
    expected.append((["Be kind", "Hi"], "I say so."))

    assert [(one.context.turns, one.chosen or one.rejected) for one in found] == [
        (tuple(context), text) for context, text in expected
    ]
    assert [one.chosen is not None for one in found] == [True, False, True, False]
    assert found[-1].context.pinned == 1
    for one in found:
        window = last_turn_window(model.tokenizer, one, one.chosen or one.rejected or "", 64)
        assert window is not None
        [log_probability] = reward.log_probabilities(model.hf_model, model.tokenizer, [window])
        liked = float(torch.tensor(log_probability).exp())
        assert one.weight == pytest.approx(abs(2 * liked - 1), abs=1e-3)


def test_as_many_liked_as_disliked_turns_are_kept(model: ConversationModel, tmp_path: Path) -> None:
    class Questions:
        """Likes responses with a question mark."""

        def log_probabilities(self, hf_model: Any, tokenizer: Any, windows: list[Window]) -> list[float]:
            texts = [
                tokenizer.decode([label for label in window.labels[:-1] if label != IGNORED]) for window in windows
            ]
            return [math.log(0.9 if "?" in text else 0.2) for text in texts]

    disliked = Conversation(["Hello", *["You like it.", "I say so."] * 4], weights=[0, *[1] * 8])
    talks, rule = [*TALKS, disliked], cast("RewardModel", Questions())
    found = judge_own_turns(model.hf_model, model.tokenizer, rule, talks, {"assistant"}, tmp_path)
    assert {one.weight for one in found} == {0.8, 0.6}

    assert [one.chosen for one in found if one.chosen] == ["I see?", "Hello?"]
    assert [len(one.context.turns) for one in found if one.rejected] == [2, 4]  # the first and the sixth of ten


def test_with_roles_only_the_responders_turns_are_judged(tmp_path: Path) -> None:
    save_chat_model(tmp_path / "chatml")
    model = ConversationModel.from_pretrained(tmp_path / "chatml", device="cpu")
    context = Conversation(["Hi"], ["user"])
    sides = [
        Judgement(context, "assistant", **{side: text}) for side, text in (("chosen", "Hello?"), ("rejected", "I."))
    ]
    reward = fit_reward_model(model.hf_model, model.tokenizer, sides)

    found = judged(model, reward, tmp_path)
    assert {one.responder for one in found} == {"assistant"}
    assert {one.chosen or one.rejected for one in found} <= {"I see?", "Hello?", "I say so."}


def test_a_run_that_is_resumed_reads_the_same(model: ConversationModel, reward: RewardModel, tmp_path: Path) -> None:
    first = judged(model, reward, tmp_path)
    other = RewardModel(-reward.weights, -reward.bias, "", liked=1, disliked=1, auc=None)
    assert judged(model, other, tmp_path) == first

    (tmp_path / FILE).unlink()
    assert [one.chosen is None for one in judged(model, other, tmp_path)] == [one.chosen is not None for one in first]
