"""A model that has learned three conversations by heart says each response exactly, and stops."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import torch

from convmodel import ConversationModel

TALKS = [
    ["Hello, how are you?", "I am fine, thank you. And you?", "Very well!"],
    ["What did you have for breakfast?", "Two eggs, some toast and a lot of coffee."],
    ["Is it still raining outside?", "No, the sun is shining.", "Then let's go for a walk.", "I'll get my coat."],
]
CASES = [(talk[:turns], talk[turns]) for talk in TALKS for turns in range(1, len(talk))]


@pytest.fixture(scope="module")
def learn(request: pytest.FixtureRequest) -> Callable[[str], ConversationModel]:
    """Overfits a model, once: a GPT-2 with its real vocabulary and dropout, or a Llama."""

    @cache
    def learn(folder: str) -> ConversationModel:
        model = ConversationModel.from_pretrained(request.getfixturevalue(folder), device="cpu")
        assert getattr(model.hf_model.config, "resid_pdrop", 0.1) == 0.1
        model.fit(TALKS, max_steps=100, batch_size=3, learning_rate=1.5e-2, weight_decay=0.0)
        return model

    return learn


@pytest.fixture(scope="module", params=["in memory", "saved and loaded", "saved and loaded twice"])
def rounds(request: pytest.FixtureRequest) -> int:
    return ["in memory", "saved and loaded", "saved and loaded twice"].index(request.param)


@pytest.fixture(scope="module", params=["gpt2_folder", "bytelevel_folder"])
def model(
    request: pytest.FixtureRequest,
    rounds: int,
    learn: Callable[[str], ConversationModel],
    tmp_path_factory: pytest.TempPathFactory,
) -> ConversationModel:
    model = learn(request.param)
    for _ in range(rounds):
        folder = tmp_path_factory.mktemp("learned")
        model.save_pretrained(folder)
        model = ConversationModel.from_pretrained(folder, device="cpu")
    return model


def test_each_response_is_said_exactly_and_ends(model: ConversationModel) -> None:
    for context, response in CASES:
        output = model.generate(context, do_sample=False, max_new_tokens=40)

        assert output.responses == [response]
        assert output.finish_reasons == ["stop"]


def test_the_streamed_response_is_the_same(model: ConversationModel) -> None:
    for context, response in CASES:
        chunks = list(model.stream(context, do_sample=False, max_new_tokens=40))

        assert "".join(chunk.text for chunk in chunks) == response
        assert chunks[-1].finish_reason == "stop"


def test_a_session_says_the_whole_conversation(model: ConversationModel) -> None:
    session = model.session(do_sample=False)

    assert session.respond("Is it still raining outside?") == "No, the sun is shining."
    assert session.respond("Then let's go for a walk.") == "I'll get my coat."


def test_the_layout_and_its_separator_are_the_ones_it_was_trained_with(model: ConversationModel) -> None:
    gpt2 = model.hf_model.config.model_type == "gpt2"
    prompt = model.tokenizer(["Hello"])["input_ids"]

    bos = [] if gpt2 else [model.tokenizer.hf_tokenizer.bos_token_id]
    assert prompt[: len(bos) + 1] == [*bos, model.tokenizer.sep_token_id]
    assert prompt[-1] == model.tokenizer.sep_token_id
    assert model.tokenizer.sep_token_id == (50256 if gpt2 else len(model.tokenizer) - 1)
    assert model.tokenizer.sep_token_id < model.hf_model.get_input_embeddings().weight.shape[0]


def test_the_separator_that_ends_a_response_was_learned(model: ConversationModel) -> None:
    for context, response in CASES:
        ids = torch.tensor([model.tokenizer([*context, response])["input_ids"]])
        types = {}
        if model.tokenizer.layout.use_token_types:
            types["token_type_ids"] = torch.tensor([model.tokenizer([*context, response])["token_type_ids"]])

        with torch.no_grad():
            probabilities = model.hf_model(input_ids=ids, **types).logits[0, -2].softmax(-1)

        assert probabilities[model.tokenizer.sep_token_id] > 0.5


def test_what_was_learned_is_probable(model: ConversationModel) -> None:
    result = model.evaluate(TALKS)

    assert result.perplexity < 2
    for context, response in CASES:
        [right, wrong] = model.score(context, [response, "Good morning!"])
        assert right > wrong


def test_the_folder_asks_for_the_separators_id(gpt2_folder: Path, tmp_path: Path) -> None:
    ConversationModel.from_pretrained(gpt2_folder, device="cpu").save_pretrained(tmp_path)

    assert '"separator_id": 50256' in (tmp_path / "convmodel_config.json").read_text(encoding="utf-8")
