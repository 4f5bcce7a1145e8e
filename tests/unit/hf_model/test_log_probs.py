"""Log-probabilities of responses, against the logits themselves."""

import pytest
import torch

from convmodel import Conversation, ConversationModel
from convmodel.errors import ContextTooLongError, ConversationError
from convmodel.hf_model.lm_head import Head
from convmodel.hf_model.log_probs import measure_targets, score_responses

CONTEXT = Conversation(["Hello", "How are you"])
RESPONSES = ["Good thank you", "Fine"]


@pytest.fixture(scope="module")
def model(model_folder: str) -> ConversationModel:
    return ConversationModel.from_pretrained(model_folder, device="cpu")


def test_a_score_is_the_sum_over_the_response_and_its_separator(model: ConversationModel) -> None:
    scores = score_responses(model.hf_model, model.tokenizer, CONTEXT, RESPONSES)
    assert scores == pytest.approx(model.score(CONTEXT, RESPONSES))

    for response, score in zip(RESPONSES, scores, strict=True):
        prompt = model.tokenizer.prompt(CONTEXT)
        reply = [*model.tokenizer.encode(response), model.tokenizer.sep_token_id]
        ids = torch.tensor([prompt.input_ids + reply])
        types = torch.tensor([prompt.types + [prompt.types[-1]] * (len(reply) - 1) + [1 - prompt.types[-1]]])
        with torch.inference_mode():
            log_probs = model.hf_model(input_ids=ids, token_type_ids=types).logits[0].log_softmax(-1)
        first = len(prompt.input_ids)
        assert score == pytest.approx(
            sum(log_probs[first + i - 1, index].item() for i, index in enumerate(reply)), 1e-5
        )


def test_the_split_head_gives_the_same_scores(model: ConversationModel) -> None:
    head = Head.of(model.hf_model)
    assert head is not None
    whole = score_responses(model.hf_model, model.tokenizer, CONTEXT, RESPONSES)
    assert score_responses(model.hf_model, model.tokenizer, CONTEXT, RESPONSES, head=head) == pytest.approx(whole)


def test_a_measure_may_return_several_values(model: ConversationModel) -> None:
    windows = model.tokenizer.windows(CONTEXT, max_length=64)
    values, labels = measure_targets(
        model.hf_model, model.tokenizer, windows, lambda logits, labels: torch.stack([logits.amax(-1), labels * 1.0], 1)
    )
    assert values.shape == (*labels.shape, 2)
    assert torch.equal(values[..., 1], labels.clamp(min=0).double())


def test_what_cannot_be_scored_is_refused(model: ConversationModel) -> None:
    with pytest.raises(ConversationError, match="a list of responses, not one string"):
        score_responses(model.hf_model, model.tokenizer, CONTEXT, "Fine")
    with pytest.raises(ConversationError, match="turn 3 is empty"):
        score_responses(model.hf_model, model.tokenizer, CONTEXT, [" "])
    with pytest.raises(ContextTooLongError, match=r"response 1 is .* tokens longer than 8 positions"):
        score_responses(model.hf_model, model.tokenizer, CONTEXT, ["long " * 20], max_length=8)
