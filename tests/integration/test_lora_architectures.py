"""LoRA on architectures with experts, or with more in the head than a matrix: what was measured is what is saved."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from architectures import byte_tokenizer, save_tiny

from convmodel import ConversationModel
from convmodel.errors import ConfigError
from convmodel.training.fit_result import FitResult

TALKS = [["Hello", "Hi, how are you?", "Good, thanks!"], ["Did you eat?", "Yes, soup."]]


def fit(model: ConversationModel, folder: Path | None = None, **options: Any) -> FitResult:
    settings: dict[str, Any] = {"max_steps": 2, "learning_rate": 1e-2, "precision": "fp32", "logging_steps": 1}
    return model.fit(TALKS, TALKS, **settings | {"lora": True, "output_dir": folder and str(folder)} | options)


@pytest.fixture
def load(make_once: Callable[..., Path]) -> Callable[[str], ConversationModel]:
    def load(name: str) -> ConversationModel:
        folder = make_once(f"tiny-{name}", lambda folder: save_tiny(folder, name))
        return ConversationModel.from_pretrained(folder, device="cpu")

    return load


def slow(*names: str) -> list[Any]:
    return [pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", ["laguna", "mixtral", "phimoe", *slow("qwen3_moe", "llama4_text")])
def test_experts_are_merged(load: Callable[[str], ConversationModel], name: str, tmp_path: Path) -> None:
    model = load(name)
    before = model.evaluate(TALKS).loss
    fit(model, tmp_path / "adapters")
    after = model.evaluate(TALKS).loss
    loaded = ConversationModel.from_pretrained(tmp_path / "adapters", device="cpu")
    assert loaded.evaluate(TALKS).loss == pytest.approx(after, rel=1e-7)
    loaded.merge_adapters()
    assert after < before
    assert loaded.evaluate(TALKS).loss == pytest.approx(after, rel=1e-5)
    assert not [name for name, _ in loaded.hf_model.named_modules() if "lora" in name or "base_layer" in name]


def test_experts_with_nested_adapters_come_off_unchanged(load: Callable[[str], ConversationModel]) -> None:
    model = load("mixtral")
    before = model.evaluate(TALKS).loss
    with pytest.raises(ConfigError, match="diverged"):
        fit(model, learning_rate=1e30, max_grad_norm=1e30, max_steps=30)
    assert model.evaluate(TALKS).loss == before


def test_a_router_is_not_a_layer_for_adapters(load: Callable[[str], ConversationModel]) -> None:
    model = load("phimoe")
    with pytest.raises(ConfigError, match=r"router is a \w+, which does more than multiply; name others as target_mod"):
        fit(model, lora={"target_modules": ["q_proj", "router"]})
    assert model.evaluate(TALKS).loss > 0


def test_a_linear_layer_with_a_forward_of_its_own_gets_adapters(load: Callable[[str], ConversationModel]) -> None:
    """As all of Falcon's do."""
    model = load("falcon")
    before = model.evaluate(TALKS).loss
    fit(model, merge=True)
    assert model.evaluate(TALKS).loss < before


@pytest.mark.filterwarnings("ignore:Unsupported layer type")
def test_a_head_with_the_name_of_other_layers_is_refused(load: Callable[[str], ConversationModel]) -> None:
    """As GIT's, `output`: peft finds the head, whose row of the separator is trained, by the end of the name."""
    model = load("git")
    before = model.evaluate(TALKS).loss
    with pytest.raises(ConfigError, match="lora does not fit this model: 'GitSelfOutput' object has no attribute"):
        fit(model)
    assert model.evaluate(TALKS).loss == before
    assert fit(model, lora=False).train_loss > 0


class Normed(torch.nn.Embedding):
    """An embedding with a norm, as Inkling's."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(super().forward(input), dim=-1)


def test_an_embedding_that_changes_its_rows_is_refused(load: Callable[[str], ConversationModel]) -> None:
    """A trained row would be used without the change."""
    model = load("llama")
    weight = model.hf_model.get_input_embeddings().weight
    embedding = Normed(*weight.shape)
    embedding.weight = weight
    model.hf_model.set_input_embeddings(embedding)
    before = model.evaluate(TALKS).loss
    with pytest.raises(ConfigError, match="lora cannot train the row that llama got for the separator: leave lora out"):
        fit(model)
    assert model.evaluate(TALKS).loss == before


@pytest.mark.parametrize("name", ["phi", *slow("gptj", "bert")])
def test_a_head_keeps_its_bias(name: str, tmp_path: Path) -> None:
    """The separator's row has no bias in the base, and its adapters no bias at all."""
    save_tiny(tmp_path / "base", name, is_decoder=True)
    base = ConversationModel.from_pretrained(tmp_path / "base", device="cpu")
    rows = base.tokenizer.sep_token_id
    base.hf_model.resize_token_embeddings(rows, mean_resizing=False)
    head: Any = base.hf_model.get_output_embeddings()
    head.bias.data[:] = -8.0
    head.bias.data[base.tokenizer.hf_tokenizer.eos_token_id] = 2.0
    base.hf_model.save_pretrained(tmp_path / "base")

    model = ConversationModel.from_pretrained(tmp_path / "base", device="cpu")
    before = model.evaluate(TALKS).loss
    result = fit(model, tmp_path / "adapters")
    first = next(log["loss"] for log in result.history if "loss" in log)
    assert first == pytest.approx(before, rel=1e-5)
    assert result.validation is not None
    after = model.evaluate(TALKS).loss
    assert result.validation.loss == pytest.approx(after, rel=1e-6)
    loaded = ConversationModel.from_pretrained(tmp_path / "adapters", device="cpu")
    assert loaded.evaluate(TALKS).loss == pytest.approx(after, rel=1e-7)
    loaded.merge_adapters()
    assert loaded.evaluate(TALKS).loss == pytest.approx(after, rel=1e-5)
    assert loaded.hf_model.get_output_embeddings().bias[rows].item() == 2.0


@pytest.mark.parametrize("end", ["<end>", "<new end>"])
def test_rows_of_other_new_entries_are_the_same_after_loading(tmp_path: Path, end: str) -> None:
    """A tokenizer with entries that have no row, as when a padding or end token was added to it alone."""
    save_tiny(tmp_path / "base", "llama")
    tokenizer = byte_tokenizer()
    tokenizer.add_special_tokens({"pad_token": "<new pad>", "eos_token": end})
    tokenizer.save_pretrained(tmp_path / "base")
    model = ConversationModel.from_pretrained(tmp_path / "base", device="cpu")
    fit(model, tmp_path / "adapters")
    loaded = ConversationModel.from_pretrained(tmp_path / "adapters", device="cpu")
    weights = (dict(each.hf_model.named_parameters()) for each in (model, loaded))
    one, other = weights
    assert one.keys() == other.keys()
    assert [name for name in one if not one[name].equal(other[name])] == []
