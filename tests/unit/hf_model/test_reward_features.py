"""The features of a reward model: which hidden states they are, read alone or together."""

from pathlib import Path

import pytest
import torch

from convmodel import Conversation, ConversationModel
from convmodel.hf_model.reward_features import reward_features
from convmodel.layout.sequence import IGNORED, Window

TALK = [f"turn {number} says a little" for number in range(9)]


@pytest.fixture(params=["gpt2_folder", "bytelevel_folder", "smollm2_folder"])
def model(request: pytest.FixtureRequest) -> ConversationModel:
    folder: Path = request.getfixturevalue(request.param)
    return ConversationModel.from_pretrained(folder, device="cpu")


def windows_of(model: ConversationModel, responses: list[str]) -> list[Window]:
    context = Conversation(TALK)
    return [
        window
        for text in responses
        for window in model.tokenizer.windows(
            context.with_turn(text), max_length=512, loss_on="last", context_share=1.0
        )
    ]


def test_they_are_means_and_last_states_then_their_products_with_the_state_before(model: ConversationModel) -> None:
    [window] = windows_of(model, ["I see you"])
    inputs = {"input_ids": torch.tensor([window.input_ids])}
    if model.tokenizer.layout.use_token_types:
        inputs["token_type_ids"] = torch.tensor([window.types])
    with torch.no_grad():
        states = model.hf_model(**inputs, output_hidden_states=True).hidden_states[1:]
    targets = [place for place, label in enumerate(window.labels) if label != IGNORED]
    alone = [part for state in states for part in (state[0, targets].mean(0), state[0, targets[-1]])]
    before = [state[0, targets[0] - 1] for state in states for _ in range(2)]
    expected = [*alone, *(one * other for one, other in zip(alone, before, strict=True))]

    assert len(states) <= 4
    torch.testing.assert_close(reward_features(model.hf_model, model.tokenizer, [window])[0], torch.cat(expected))


def test_together_they_are_as_alone(model: ConversationModel) -> None:
    """What the windows begin with is read once, then; they are of different lengths."""
    windows = windows_of(model, ["I", "I see you", "You see", "No"] * 3)
    together = reward_features(model.hf_model, model.tokenizer, windows)
    alone = torch.cat([reward_features(model.hf_model, model.tokenizer, [window]) for window in windows])

    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-4)
