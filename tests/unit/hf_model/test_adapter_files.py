"""Files of adapters: they hold what is trained, and give it back."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from transformers import AutoModelForCausalLM, AutoTokenizer

from convmodel import ConversationModel
from convmodel.errors import ConfigError
from convmodel.files.hub import ADAPTER_WEIGHTS
from convmodel.hf_model.adapter_files import load_adapters, require_base, save_adapters
from convmodel.hf_model.embedding import embed
from convmodel.hf_model.lora import add_adapters

Load = Callable[[str], ConversationModel]

IDS = torch.tensor([[5, 9, 21, 7, 3, 5, 11]])


@pytest.fixture
def load(zoo_folders: dict[str, Path]) -> Load:
    return lambda family: ConversationModel.from_pretrained(zoo_folders[family], device="cpu")


@pytest.fixture(params=["unigram", "bytelevel", "smollm2"])
def family(request: pytest.FixtureRequest) -> str:
    """A GPT-2, and two Llamas; the last gets a new row for the separator."""
    name: str = request.param
    return name


def add(model: ConversationModel) -> int:
    return add_adapters(model.hf_model, model.tokenizer, {"r": 4})


def trained(model: ConversationModel) -> dict[str, torch.Tensor]:
    return {name: value for name, value in model.hf_model.named_parameters() if value.requires_grad}


def disturb(model: ConversationModel) -> None:
    """Changes whatever is trained, as learning would."""
    with torch.random.fork_rng(), torch.no_grad():
        torch.manual_seed(1)
        for value in trained(model).values():
            value.add_(0.1 * torch.randn_like(value))


def logits(model: ConversationModel) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.hf_model(IDS).logits
    return found


def test_saved_and_put_back_they_are_the_same_in_the_same_parameters(load: Load, family: str, tmp_path: Path) -> None:
    model = load(family)
    add(model)
    disturb(model)
    expected, kept = logits(model), trained(model)
    save_adapters(model.hf_model, tmp_path)
    disturb(model)
    assert not torch.equal(logits(model), expected)

    load_adapters(model.hf_model, tmp_path)

    assert torch.equal(logits(model), expected)
    assert all(value is kept[name] for name, value in trained(model).items())


def test_the_file_holds_what_is_trained_and_nothing_else(load: Load, family: str, tmp_path: Path) -> None:
    model = load(family)
    count = add(model)

    save_adapters(model.hf_model, tmp_path)

    with safe_open(tmp_path / ADAPTER_WEIGHTS, "pt") as file:
        names = list(file.keys())
        assert sum(file.get_tensor(name).numel() for name in names) == count
    assert len(names) == len(trained(model))
    assert all(name.startswith("base_model.model.") for name in names)


def test_a_model_of_no_folder_is_no_base(load: Load, tmp_path: Path) -> None:
    model = load("bytelevel")
    require_base(model.hf_model, tmp_path)
    model.hf_model.name_or_path = ""

    with pytest.raises(ConfigError, match="their base model is nowhere"):
        require_base(model.hf_model, tmp_path)
    require_base(model.hf_model, tmp_path, alone=False)


def test_a_separators_row_amid_padding_is_saved_without_an_end_of_text_too(
    zoo_folders: dict[str, Path], tmp_path: Path
) -> None:
    hf_tokenizer = AutoTokenizer.from_pretrained(zoo_folders["smollm2"])
    hf_tokenizer.eos_token = None
    hf_model = AutoModelForCausalLM.from_pretrained(zoo_folders["smollm2"])
    hf_model.resize_token_embeddings(len(hf_tokenizer) + 8, mean_resizing=False)
    hf_tokenizer.save_pretrained(tmp_path / "base")
    hf_model.save_pretrained(tmp_path / "base")
    model = ConversationModel.from_pretrained(tmp_path / "base", device="cpu")
    separator = model.tokenizer.sep_token_id
    weight = model.hf_model.get_input_embeddings().weight
    assert model.tokenizer.end_of_text_id is None
    assert torch.equal(weight[separator], weight[:separator].mean(0))  # padding has no meaning

    add(model)
    disturb(model)
    model.save_pretrained(tmp_path / "adapters")

    loaded = ConversationModel.from_pretrained(tmp_path / "adapters", device="cpu")
    row = embed(loaded.hf_model, [separator])
    assert not torch.equal(row[0, 0], weight[separator])
    assert torch.equal(row, embed(model.hf_model, [separator]))
