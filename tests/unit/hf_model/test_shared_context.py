"""What windows begin with alike: read once if that is worth it, and nothing of it is lost."""

from pathlib import Path

import pytest
import torch

from convmodel import Conversation, ConversationModel
from convmodel.hf_model.shared_context import read_shared
from convmodel.layout.sequence import Window


@pytest.fixture(scope="module")
def model(gpt2_folder: Path) -> ConversationModel:
    return ConversationModel.from_pretrained(gpt2_folder, device="cpu")


def windows_of(model: ConversationModel, turns: int, responses: list[str]) -> list[Window]:
    context = Conversation([f"turn {number} says a little" for number in range(turns)])
    return [
        model.tokenizer.windows(context.with_turn(text), max_length=512, loss_on="last", context_share=1.0)[0]
        for text in responses
    ]


def test_what_is_shared_is_read_once_and_the_rest_stays(model: ConversationModel) -> None:
    windows = windows_of(model, 9, ["I see", "You", "I like it"])
    context, rest = read_shared(model.hf_model, model.tokenizer, windows)

    assert context is not None
    assert context.length > 40
    for whole, part in zip(windows, rest, strict=True):
        assert part.input_ids == whole.input_ids[context.length :]
        assert part.types == whole.types[context.length :]
        assert part.labels == whole.labels[context.length :]
        assert part.labels[0] == -100  # the position before the first target is not shared
        with torch.no_grad():
            inputs = {"input_ids": torch.tensor([part.input_ids]), "token_type_ids": torch.tensor([part.types])}
            continued = model.hf_model(
                **inputs, **context.arguments(model.hf_model, inputs["input_ids"] * 0 + 1)
            ).logits
            ids = {"input_ids": torch.tensor([whole.input_ids]), "token_type_ids": torch.tensor([whole.types])}
            expected = model.hf_model(**ids).logits[:, context.length :]
        torch.testing.assert_close(continued, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(("turns", "responses"), [(1, ["I see", "You"]), (9, ["I see"])])
def test_a_little_is_not_worth_it(model: ConversationModel, turns: int, responses: list[str]) -> None:
    windows = windows_of(model, turns, responses)
    context, rest = read_shared(model.hf_model, model.tokenizer, windows)

    assert context is None
    assert rest is windows
