"""Adapters: they begin as nothing, are all that learns, and come off without a trace."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from convmodel import ConversationModel
from convmodel.errors import ConfigError
from convmodel.hf_model.lora import add_adapters, has_adapters, remove_adapters

R = 4
WIDTHS = {
    "unigram": [(32, 96), (32, 32), (32, 128), (128, 32)],
    "bytelevel": [(32, 32)] * 4 + [(32, 64)] * 2 + [(64, 32)],
    "smollm2": [(32, 32)] * 4 + [(32, 64)] * 2 + [(64, 32)],
}
"""Inputs and outputs of the linear layers in one of the two blocks: a GPT-2, and two Llamas."""

IDS = torch.tensor([[5, 9, 21, 7, 3, 5, 11]])

Load = Callable[[str], ConversationModel]


@pytest.fixture
def load(zoo_folders: dict[str, Path]) -> Load:
    return lambda family: ConversationModel.from_pretrained(zoo_folders[family], device="cpu")


@pytest.fixture(params=WIDTHS)
def family(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    return name


def add(model: ConversationModel, **options: Any) -> int:
    return add_adapters(model.hf_model, model.tokenizer, {"r": R} | options)


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


def state(model: ConversationModel) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in model.hf_model.state_dict().items()}


def tie(model: ConversationModel) -> None:
    model.hf_model.config.tie_word_embeddings = True
    model.hf_model.tie_weights()
    assert model.hf_model.lm_head.weight is model.hf_model.get_input_embeddings().weight


def test_they_begin_as_nothing(load: Load, family: str) -> None:
    model = load(family)
    before = logits(model)

    add(model)

    assert has_adapters(model.hf_model)
    assert torch.equal(logits(model), before)


def test_two_matrices_a_linear_layer_are_trained_and_none_of_the_head(load: Load, family: str) -> None:
    model = load(family)
    rows = 2 if family != "unigram" else 0  # of the embedding and of the head, where the separator is new

    count = add(model)

    matrices = sum(R * (inputs + outputs) for inputs, outputs in WIDTHS[family]) * 2
    assert count == matrices + rows * 32 == sum(value.numel() for value in trained(model).values())
    assert not [name for name in trained(model) if "lora_" in name and ("lm_head" in name or "embed" in name)]


def test_their_first_values_depend_on_the_seed_alone(load: Load) -> None:
    found = []
    for caller, seed in ((1, 0), (2, 0), (2, 7)):
        model = load("bytelevel")
        torch.manual_seed(caller)
        expected = torch.get_rng_state()
        add_adapters(model.hf_model, model.tokenizer, {}, seed=seed)
        assert torch.equal(torch.get_rng_state(), expected)
        found.append({name: value.detach().clone() for name, value in trained(model).items() if "lora_A" in name})

    one, same, other = found
    assert all(torch.equal(value, same[name]) for name, value in one.items())
    assert not any(torch.equal(value, other[name]) for name, value in one.items())


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("merge", [True, False])
def test_off_again_they_leave_a_plain_model(load: Load, family: str, merge: bool, tied: bool) -> None:
    model = load(family)
    if tied or family == "unigram":
        tie(model)
    before, kinds = state(model), [type(part) for part in model.hf_model.modules()]
    add(model)
    disturb(model)
    adapted = logits(model)

    remove_adapters(model.hf_model, merge=merge)

    assert not has_adapters(model.hf_model)
    assert not hasattr(model.hf_model, "peft_config")
    assert [type(part) for part in model.hf_model.modules()] == kinds
    assert all(value.requires_grad for value in model.hf_model.parameters())
    after = state(model)
    assert after.keys() == before.keys()
    head, embedding = model.hf_model.get_output_embeddings(), model.hf_model.get_input_embeddings()
    assert (head.weight is embedding.weight) == (tied or family == "unigram")
    if merge:
        torch.testing.assert_close(logits(model), adapted, rtol=1e-4, atol=1e-4)
        assert not torch.equal(after["lm_head.weight"], before["lm_head.weight"]) or family == "unigram"
    else:
        assert all(torch.equal(value, before[name]) for name, value in after.items())


def test_input_and_output_rows_of_a_tied_model_stay_equal_while_they_learn(load: Load) -> None:
    model = load("smollm2")
    tie(model)
    add(model)
    separator = model.tokenizer.sep_token_id
    [row] = [value for name, value in trained(model).items() if "lora_" not in name]

    disturb(model)

    head, embedding = model.hf_model.get_output_embeddings(), model.hf_model.get_input_embeddings()
    assert torch.equal(embedding(torch.tensor([separator])), row)
    assert torch.equal(head(torch.eye(32))[:, separator], row[0])
    others = torch.arange(separator)
    assert torch.equal(embedding(others), head(torch.eye(32)).T[:separator])


def test_the_row_of_a_separator_is_not_new_once_it_was_trained(load: Load) -> None:
    model = load("smollm2")
    with torch.no_grad():
        model.hf_model.get_input_embeddings().weight[model.tokenizer.sep_token_id] += 0.01

    add(model)

    assert all("lora_" in name for name in trained(model))


@pytest.mark.slow
def test_a_separator_that_ends_texts_too_is_not_new(gpt2_folder: Path) -> None:
    model = ConversationModel.from_pretrained(gpt2_folder, device="cpu")
    assert model.tokenizer.sep_token_id == model.tokenizer.hf_tokenizer.eos_token_id

    add(model)

    assert all("lora_" in name for name in trained(model))


@pytest.mark.parametrize("lasting", [(1,), (0,), (0, 1)], ids=str)
def test_some_layers_alone_can_have_adapters(load: Load, family: str, lasting: tuple[int, ...]) -> None:
    model = load(family)

    add(model, layers_to_transform=[*lasting])

    names = [name for name in trained(model) if "lora_A" in name]
    assert {int(re.search(r"\.(\d+)\.", name)[1]) for name in names} == {*lasting}  # type: ignore[index]
    assert len(names) == len(WIDTHS[family]) * len(lasting)


@pytest.mark.parametrize(
    "options",
    [
        {"rank": 4},
        {"r": 0},
        {"target_modules": ["nothing_like_it"]},
        {"target_modules": ".*", "layers_to_transform": [0]},
        {"layers_to_transform": [7]},
    ],
    ids=str,
)
def test_options_that_do_not_fit_leave_a_plain_model(load: Load, options: dict[str, Any]) -> None:
    model = load("smollm2")
    before = state(model)

    with pytest.raises(ConfigError, match="lora"):
        add(model, **options)

    assert not has_adapters(model.hf_model)
    after = state(model)
    assert after.keys() == before.keys()
    assert all(torch.equal(value, before[name]) for name, value in after.items())
    assert all(value.requires_grad for value in model.hf_model.parameters())
