"""Checkpoints: files that plain transformers loads too, no pickle, written whole or not at all."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from chat_templates import save_chat_model
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from convmodel import ConversationModel
from convmodel.errors import SaveError
from convmodel.hf_model.saving import _set_end, save_checkpoint
from fine_tuning import no_file_larger_than

CONTEXT = ["Hello, how are you today?", "I am fine, thank you. And you?"]
FILES = {
    "README.md",
    "chat_template.jinja",
    "config.json",
    "convmodel_config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
}


def load(folder: Path) -> ConversationModel:
    return ConversationModel.from_pretrained(folder, device="cpu")


def contents(folder: Path) -> dict[str, bytes]:
    """Every file below a folder, hidden ones included."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def scramble(model: ConversationModel) -> None:
    """Changes every weight, so that the old file and the new one differ."""
    with torch.no_grad():
        for parameter in model.hf_model.parameters():
            parameter.add_(1.0)


def test_a_checkpoint_is_these_files_and_no_pickle(unigram_folder: Path, tmp_path: Path) -> None:
    model = load(unigram_folder)

    save_checkpoint(model.hf_model, model.tokenizer, tmp_path / "model")

    assert set(contents(tmp_path / "model")) == FILES


@pytest.mark.slow
def test_plain_transformers_loads_the_same_model_and_ids(zoo: Path, tmp_path: Path) -> None:
    model = load(zoo)
    prompt = model.tokenizer(CONTEXT)

    save_checkpoint(model.hf_model, model.tokenizer, tmp_path)

    hf_model, hf_tokenizer = AutoModelForCausalLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    messages = [{"role": role, "content": turn} for role, turn in zip(("user", "assistant"), CONTEXT, strict=True)]
    inputs = {name: torch.tensor([ids]) for name, ids in prompt.items()}
    assert hf_tokenizer.sep_token_id == model.tokenizer.sep_token_id
    assert hf_tokenizer.apply_chat_template(messages, return_dict=False) == prompt["input_ids"]
    with torch.no_grad():
        torch.testing.assert_close(hf_model(**inputs).logits, model.hf_model(**inputs).logits, rtol=0, atol=0)


def test_a_second_save_replaces_the_first(unigram_folder: Path, tmp_path: Path) -> None:
    model = load(unigram_folder)
    save_checkpoint(model.hf_model, model.tokenizer, tmp_path)
    (tmp_path / "notes.txt").write_text("the caller's own", encoding="utf-8")
    scramble(model)

    save_checkpoint(model.hf_model, model.tokenizer, tmp_path)

    assert set(contents(tmp_path)) == FILES | {"notes.txt"}
    weights = load(tmp_path).hf_model.state_dict()
    assert all(torch.equal(weights[name], value) for name, value in model.hf_model.state_dict().items())


def test_shards_of_an_older_model_are_removed(unigram_folder: Path, tmp_path: Path) -> None:
    model = load(unigram_folder)
    model.hf_model.save_pretrained(tmp_path, max_shard_size="100KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 1
    scramble(model)

    save_checkpoint(model.hf_model, model.tokenizer, tmp_path)

    assert set(contents(tmp_path)) == FILES
    reloaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(reloaded.transformer.wpe.weight, model.hf_model.transformer.wpe.weight)


def test_a_tokenizer_with_several_templates_is_saved_twice(tmp_path: Path) -> None:
    save_chat_model(tmp_path / "base")
    model = load(tmp_path / "base")
    template = model.tokenizer.hf_tokenizer.chat_template
    model.tokenizer.hf_tokenizer.chat_template = {"default": template, "tool_use": "{# old #}", "rag": "{# rag #}"}
    save_checkpoint(model.hf_model, model.tokenizer, tmp_path / "model")
    model.tokenizer.hf_tokenizer.chat_template = {"default": template, "tool_use": "{# new #}"}

    save_checkpoint(model.hf_model, model.tokenizer, tmp_path / "model")

    assert set(contents(tmp_path / "model")) == FILES | {"additional_chat_templates/tool_use.jinja"}
    templates = AutoTokenizer.from_pretrained(tmp_path / "model").chat_template
    assert templates == {"default": template, "tool_use": "{# new #}"}


def test_further_templates_of_an_older_model_are_removed(unigram_folder: Path, tmp_path: Path) -> None:
    model = load(unigram_folder)
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("{# old #}", encoding="utf-8")

    save_checkpoint(model.hf_model, model.tokenizer, tmp_path)

    assert set(contents(tmp_path)) == FILES
    assert isinstance(AutoTokenizer.from_pretrained(tmp_path).chat_template, str)


@pytest.mark.slow
def test_a_fit_of_a_tokenizer_with_several_templates_keeps_each_better_model(tmp_path: Path) -> None:
    save_chat_model(tmp_path / "base")
    model = load(tmp_path / "base")
    hf_tokenizer = model.tokenizer.hf_tokenizer
    hf_tokenizer.chat_template = {"default": hf_tokenizer.chat_template, "tool_use": "{# tools #}"}

    result = model.fit([CONTEXT], [CONTEXT], max_steps=2, eval_steps=1, output_dir=str(tmp_path / "model"))

    assert result.best_step == 2
    assert load(tmp_path / "model").tokenizer.hf_tokenizer.chat_template == hf_tokenizer.chat_template


def test_the_generation_config_stops_at_the_separator_and_counts_no_prompt(
    unigram_folder: Path, tmp_path: Path
) -> None:
    model = load(unigram_folder)
    model.hf_model.generation_config = GenerationConfig(max_length=20, do_sample=True, top_p=0.9, eos_token_id=2)

    save_checkpoint(model.hf_model, model.tokenizer, tmp_path)

    saved = json.loads((tmp_path / "generation_config.json").read_text(encoding="utf-8"))
    assert saved["eos_token_id"] == [model.tokenizer.sep_token_id, 2]
    assert saved["pad_token_id"] == model.tokenizer.pad_token_id
    assert saved.get("max_length") is None
    assert (saved["do_sample"], saved["top_p"]) == (True, 0.9)
    assert model.hf_model.generation_config.max_length == 20  # the model in hand is as it was


def test_a_long_context_still_gets_a_response_after_save_and_load(unigram_folder: Path, tmp_path: Path) -> None:
    model = load(unigram_folder)
    model.hf_model.generation_config = GenerationConfig(max_length=5)

    save_checkpoint(model.hf_model, model.tokenizer, tmp_path)

    output = load(tmp_path).generate(["Hello, how are you today?"], max_new_tokens=3, min_new_tokens=3)
    assert output.response_tokens == [3]


def test_a_generation_config_with_leftovers_does_not_stop_the_save(unigram_folder: Path, tmp_path: Path) -> None:
    # Many a model on the hub carries sampling settings without do_sample, which transformers refuses to save.
    folder = tmp_path / "leftovers"
    shutil.copytree(unigram_folder, folder)
    (folder / "generation_config.json").write_text('{"temperature": 0.6, "top_p": 0.9}', encoding="utf-8")
    model = load(folder)

    save_checkpoint(model.hf_model, model.tokenizer, tmp_path / "model")

    assert set(contents(tmp_path / "model")) == FILES


def test_the_card_tells_the_layout_and_the_facts(unigram_folder: Path, tmp_path: Path) -> None:
    model = load(unigram_folder)

    save_checkpoint(model.hf_model, model.tokenizer, tmp_path, facts={"Validation perplexity": "12.34"})

    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert card.startswith("---\nlibrary_name: transformers\n")
    assert "| Separator | `[SEP]`, id 4 |" in card
    assert "| Token types | the speaker's index |" in card
    assert "| Validation perplexity | 12.34 |" in card
    assert "such programs, fine-tune with `convmodel fit --token-types off`, or load the model to fine-tune" in card

    plain = ConversationModel.from_pretrained(unigram_folder, device="cpu", use_token_types=False)
    save_checkpoint(plain.hf_model, plain.tokenizer, tmp_path)
    card = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "| Token types | none |" in card
    assert "use_token_types" not in card


@pytest.mark.parametrize("place", ["file", "file/model"])
def test_a_file_where_the_folder_should_be_is_refused_and_stays(
    unigram_folder: Path, tmp_path: Path, place: str
) -> None:
    model = load(unigram_folder)
    (tmp_path / "file").write_text("mine", encoding="utf-8")

    with pytest.raises(SaveError, match=f"{place} cannot be written: .*; choose another folder"):
        save_checkpoint(model.hf_model, model.tokenizer, tmp_path / place)

    assert contents(tmp_path) == {"file": b"mine"}


def test_a_full_disk_leaves_the_old_checkpoint_as_it_was(unigram_folder: Path, tmp_path: Path) -> None:
    model = load(unigram_folder)
    save_checkpoint(model.hf_model, model.tokenizer, tmp_path)
    before = contents(tmp_path)
    scramble(model)

    with (
        pytest.raises(SaveError, match=f"{tmp_path.name}.* cannot be written: .*large"),
        no_file_larger_than(100_000),
    ):
        save_checkpoint(model.hf_model, model.tokenizer, tmp_path)

    assert contents(tmp_path) == before


def test_a_full_disk_leaves_nothing_where_nothing_was(unigram_folder: Path, tmp_path: Path) -> None:
    model = load(unigram_folder)

    with pytest.raises(SaveError), no_file_larger_than(100_000):
        save_checkpoint(model.hf_model, model.tokenizer, tmp_path / "new" / "model")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("error", [OSError(28, "No space left on device"), Exception("No space left on device")])
def test_a_disk_that_fills_up_at_the_tokenizer_leaves_the_old_checkpoint_too(
    unigram_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    model = load(unigram_folder)
    save_checkpoint(model.hf_model, model.tokenizer, tmp_path)
    before = contents(tmp_path)
    scramble(model)

    def fill_up(*arguments: Any, **options: Any) -> None:
        raise error  # the tokenizers library raises a bare Exception

    monkeypatch.setattr(type(model.tokenizer.hf_tokenizer), "save_pretrained", fill_up)
    with pytest.raises(SaveError, match="No space left on device"):
        save_checkpoint(model.hf_model, model.tokenizer, tmp_path)

    assert contents(tmp_path) == before


def test_an_interrupted_save_leaves_the_old_checkpoint(
    unigram_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(unigram_folder)
    save_checkpoint(model.hf_model, model.tokenizer, tmp_path)
    before = contents(tmp_path)
    scramble(model)

    def interrupt(*arguments: Any, **options: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(type(model.tokenizer.hf_tokenizer), "save_pretrained", interrupt)
    with pytest.raises(KeyboardInterrupt):
        save_checkpoint(model.hf_model, model.tokenizer, tmp_path)

    assert contents(tmp_path) == before


def test_files_that_are_not_the_models_stay(unigram_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("my notes", encoding="utf-8")
    (tmp_path / "adapter.safetensors").write_bytes(b"mine")
    model = load(unigram_folder)

    save_checkpoint(model.hf_model, model.tokenizer, tmp_path)

    assert (tmp_path / "README.md").read_text(encoding="utf-8") == "my notes"
    assert (tmp_path / "adapter.safetensors").read_bytes() == b"mine"


def test_a_configuration_that_takes_one_end_gets_the_separator(bytelevel_folder: Path, tmp_path: Path) -> None:
    """As Inkling's does: a list is an error of its validation."""
    model = load(bytelevel_folder)
    model.hf_model.generation_config.eos_token_id = ends = [model.tokenizer.sep_token_id, 0]

    class OneEnd(type(model.hf_model.config)):  # type: ignore[misc]
        def __setattr__(self, name: str, value: Any) -> None:
            if name == "eos_token_id" and isinstance(value, list):
                raise TypeError(name)
            super().__setattr__(name, value)

    _set_end(model.hf_model.config, ends)
    assert model.hf_model.config.eos_token_id == ends
    model.hf_model.config.__class__ = OneEnd
    _set_end(model.hf_model.config, ends)
    assert model.hf_model.config.eos_token_id == ends[0]


def test_a_card_that_an_earlier_save_wrote_is_replaced(unigram_folder: Path, tmp_path: Path) -> None:
    model = load(unigram_folder)
    save_checkpoint(model.hf_model, model.tokenizer, tmp_path, facts={"Steps": "1"})

    save_checkpoint(model.hf_model, model.tokenizer, tmp_path, facts={"Steps": "2"})

    assert "| Steps | 2 |" in (tmp_path / "README.md").read_text(encoding="utf-8")


def test_a_place_without_a_name_is_refused(
    unigram_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load(unigram_folder)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SaveError, match="no name"):
        save_checkpoint(model.hf_model, model.tokenizer, "")
