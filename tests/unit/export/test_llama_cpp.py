"""llama.cpp answers as the model does."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from export_models import make_model

from convmodel import ConversationModel
from convmodel.errors import ExportError
from convmodel.export.gguf_file import gguf_model, write_gguf
from convmodel.export.llama_cpp import LlamaCpp, running
from convmodel.export.origin import Origin

pytestmark = pytest.mark.loopback


@pytest.fixture(scope="module")
def model() -> ConversationModel:
    return make_model("llama")


@pytest.fixture(scope="module")
def llama(model: ConversationModel, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LlamaCpp]:
    """llama.cpp with the model's file, in `llama_cpp_server`."""
    path = tmp_path_factory.mktemp("gguf") / "x.gguf"
    write_gguf(gguf_model(model.hf_model, model.tokenizer), path, "f32", Origin("x"))
    with running(path, 1) as started:
        yield started


def log_probs(model: ConversationModel, ids: list[int]) -> torch.Tensor:
    with torch.inference_mode():
        return model.hf_model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)


def test_a_prompt_has_the_layout_s_ids(model: ConversationModel, llama: LlamaCpp) -> None:
    messages = [{"role": "user", "content": "Hello <|im_end|> there"}]
    assert llama.prompt_ids(messages) == model.tokenizer(["Hello <|im_end|> there"])["input_ids"]


def test_tokens_are_the_most_likely_ones(model: ConversationModel, llama: LlamaCpp) -> None:
    ids = model.tokenizer(["Hello"])["input_ids"]
    continuation = llama.continue_ids(ids, 5)
    assert len(continuation.ids) == 5
    assert not continuation.has_ended
    for index in continuation.ids:
        assert log_probs(model, ids).argmax() == index
        ids = [*ids, index]


def test_every_token_has_its_log_probability(model: ConversationModel, llama: LlamaCpp) -> None:
    """A token that is a part of a character has no text that could be sent."""
    ids, end = model.tokenizer(["Hello"])["input_ids"], model.tokenizer.end_token_id
    expected = log_probs(model, ids)
    for index in (5, 130, 200, 250, end, int(expected.argmin())):
        assert llama.log_prob(ids, index, end=end) == pytest.approx(float(expected[index]), abs=1e-3)


def test_a_response_ends_at_the_end_alone(model: ConversationModel, llama: LlamaCpp) -> None:
    ids = model.tokenizer(["Hello"])["input_ids"]
    assert llama.ends_with(ids, model.tokenizer.end_token_id)
    assert not llama.ends_with(ids, 5)


def test_an_end_of_llama_cpp_is_said_as_such(model: ConversationModel, tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    write_gguf(gguf_model(model.hf_model, model.tokenizer), path, "f32", Origin("x"))
    with running(path, 1) as llama:
        with pytest.raises(ExportError, match=r"llama\.cpp refuses a request: .*"):
            llama._ask("/completion", {"prompt": {}})
        llama._address = "http://127.0.0.1:9"
        with pytest.raises(ExportError, match=r"llama\.cpp does not answer any more"):
            llama.encode("Hello")


def test_a_file_that_llama_cpp_does_not_read_is_an_error_with_its_reason(tmp_path: Path) -> None:
    path = tmp_path / "x.gguf"
    path.write_bytes(b"GGUF" + bytes(40))
    with pytest.raises(ExportError, match=r"llama\.cpp does not read the file: .+"), running(path, 1):
        pass
