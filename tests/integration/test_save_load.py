"""A saved model is the same model: ids, types and logits, here and in plain transformers, round after round."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GenerationConfig,
    LlamaConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from convmodel import ConversationModel, ConversationTokenizer
from convmodel.errors import ModelLoadError
from convmodel.layout.config import FILE_NAME

TURNS = ["Hello, how are you today?", "元気です 🍕\nAnd you?", "I am fine, <|endoftext|> <sep> thank you."]
MESSAGES = [{"role": role, "content": text} for role, text in zip(["user", "assistant"], TURNS, strict=False)]


def logits(hf_model: PreTrainedModel, encoding: dict[str, list[int]]) -> torch.Tensor:
    """The logits of one sequence, shape (seq, vocab)."""
    with torch.inference_mode():
        return hf_model(**{name: torch.tensor([values]) for name, values in encoding.items()}).logits[0]


def rows(model: ConversationModel) -> tuple[int, int]:
    """How many rows the input and the output embedding have."""
    hf_model = model.hf_model
    return hf_model.get_input_embeddings().weight.shape[0], hf_model.get_output_embeddings().weight.shape[0]


def row(hf_model: PreTrainedModel, index: int) -> torch.Tensor:
    """A token's values in the input and in the output embedding."""
    embeddings = (hf_model.get_input_embeddings(), hf_model.get_output_embeddings())
    return torch.cat([layer.weight[index].detach() for layer in embeddings])


@pytest.fixture(scope="module")
def model(zoo: Path) -> ConversationModel:
    return ConversationModel.from_pretrained(zoo, device="cpu")


@pytest.fixture(scope="module")
def rounds(model: ConversationModel, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """The folders of a model that was saved, loaded, and saved again."""
    root = tmp_path_factory.mktemp("rounds")
    model.save_pretrained(root / "1")
    ConversationModel.from_pretrained(root / "1", device="cpu").save_pretrained(root / "2")
    return [root / "1", root / "2"]


def test_ids_types_and_logits_survive_two_rounds(model: ConversationModel, rounds: list[Path]) -> None:
    encoding = model.tokenizer(TURNS)
    loaded = ConversationModel.from_pretrained(rounds[-1], device="cpu")
    assert loaded.tokenizer(TURNS) == encoding
    assert loaded.tokenizer.layout == model.tokenizer.layout
    assert torch.equal(logits(loaded.hf_model, encoding), logits(model.hf_model, encoding))
    assert rows(loaded) == rows(model)


def test_plain_transformers_gives_the_same_ids_and_logits_after_two_rounds(
    model: ConversationModel, rounds: list[Path]
) -> None:
    hf_model, tokenizer = plain(rounds[-1])
    ids = tokenizer.apply_chat_template(MESSAGES, tokenize=True, return_dict=False)
    encoding = model.tokenizer(MESSAGES)
    assert list(ids) == encoding["input_ids"]
    assert torch.equal(logits(hf_model, encoding), logits(model.hf_model, encoding))
    assert len(tokenizer) <= hf_model.get_input_embeddings().weight.shape[0]
    assert hf_model.config.vocab_size == hf_model.get_input_embeddings().weight.shape[0]


def test_plain_transformers_knows_where_to_stop(model: ConversationModel, rounds: list[Path]) -> None:
    hf_model, tokenizer = plain(rounds[-1])
    stop = hf_model.generation_config.eos_token_id
    assert (stop if isinstance(stop, list) else [stop]) == model.tokenizer.stop_token_ids
    assert tokenizer.sep_token_id == model.tokenizer.sep_token_id


@pytest.mark.slow
def test_all_files_agree_on_the_end_of_a_response(model: ConversationModel, rounds: list[Path]) -> None:
    for folder in rounds:
        config = AutoConfig.from_pretrained(folder)
        assert config.eos_token_id == GenerationConfig.from_pretrained(folder).eos_token_id
        assert AutoTokenizer.from_pretrained(folder).eos_token_id == model.tokenizer.sep_token_id
        derived = GenerationConfig.from_model_config(config).eos_token_id
        assert (derived if isinstance(derived, list) else [derived]) == model.tokenizer.stop_token_ids
        assert ConversationTokenizer.from_pretrained(folder).stop_token_ids == model.tokenizer.stop_token_ids
        ends = ", ".join(f"id {index}" for index in model.tokenizer.stop_token_ids)
        assert f"| End of a response | {ends} |" in (folder / "README.md").read_text(encoding="utf-8")


def test_saving_leaves_the_model_and_its_tokenizer_as_they_were(zoo: Path, tmp_path: Path) -> None:
    model = ConversationModel.from_pretrained(zoo, device="cpu")
    before = model.hf_model.config.eos_token_id, model.tokenizer.hf_tokenizer.eos_token
    model.save_pretrained(tmp_path)
    assert (model.hf_model.config.eos_token_id, model.tokenizer.hf_tokenizer.eos_token) == before


@pytest.mark.slow
def test_the_end_of_text_token_stays_a_control_token(family: ConversationTokenizer, rounds: list[Path]) -> None:
    end = family.hf_tokenizer.eos_token_id
    for folder in rounds:
        loaded = ConversationTokenizer.from_pretrained(folder)
        assert loaded.decode([*loaded.encode("Hi"), end]) == "Hi"
        assert end not in loaded.encode(family.hf_tokenizer.eos_token)
        assert AutoTokenizer.from_pretrained(folder).decode([end], skip_special_tokens=True) == ""


def test_a_saved_folder_holds_nothing_that_can_be_executed(rounds: list[Path]) -> None:
    names = {path.name for path in rounds[-1].iterdir()}
    assert {FILE_NAME, "chat_template.jinja", "generation_config.json", "README.md", "model.safetensors"} <= names
    assert {Path(name).suffix for name in names} <= {".json", ".jinja", ".txt", ".md", ".safetensors"}


def plain(folder: Path) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """What plain transformers loads from a folder."""
    return AutoModelForCausalLM.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize(("name", "before"), [("bytelevel", 403), ("smollm2", 401)])
def test_the_embedding_grows_once_by_the_end_of_text_row(
    name: str, before: int, zoo_folders: dict[str, Path], tmp_path: Path
) -> None:
    original = AutoModelForCausalLM.from_pretrained(zoo_folders[name])
    end_of_text = original.config.eos_token_id

    model = ConversationModel.from_pretrained(zoo_folders[name], device="cpu")
    assert rows(model) == (before + 1, before + 1)
    assert model.hf_model.config.vocab_size == before + 1
    assert torch.equal(row(model.hf_model, before), row(original, end_of_text))
    for index in range(before):
        assert torch.equal(row(model.hf_model, index), row(original, index))

    with torch.no_grad():  # as training would
        model.hf_model.get_input_embeddings().weight[before].add_(1.0)
    model.save_pretrained(tmp_path)
    again = ConversationModel.from_pretrained(tmp_path, device="cpu")
    assert rows(again) == (before + 1, before + 1)
    assert torch.equal(row(again.hf_model, before), row(model.hf_model, before))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "entries"), [("gpt2", 50257), ("unigram", 466)])
def test_the_embedding_stays_where_the_vocabulary_has_a_separator(
    name: str, entries: int, zoo_folders: dict[str, Path]
) -> None:
    original = AutoModelForCausalLM.from_pretrained(zoo_folders[name])
    model = ConversationModel.from_pretrained(zoo_folders[name], device="cpu")
    assert rows(model) == (entries, entries)
    weight = model.hf_model.get_input_embeddings().weight
    assert torch.equal(weight, original.get_input_embeddings().weight)


@pytest.fixture
def padded(bytelevel_folder: Path, tmp_path: Path) -> Path:
    """A checkpoint whose embedding has more rows than its vocabulary has entries, as Qwen's."""
    hf_model = AutoModelForCausalLM.from_pretrained(bytelevel_folder)
    hf_model.resize_token_embeddings(448, mean_resizing=False)
    folder = tmp_path / "padded"
    hf_model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(bytelevel_folder).save_pretrained(folder)
    return folder


def test_a_padded_embedding_keeps_its_size_and_gives_the_separator_a_row(padded: Path, tmp_path: Path) -> None:
    original = AutoModelForCausalLM.from_pretrained(padded)
    model = ConversationModel.from_pretrained(padded, device="cpu")
    assert rows(model) == (448, 448)
    assert torch.equal(row(model.hf_model, 403), row(original, original.config.eos_token_id))

    model.save_pretrained(tmp_path / "saved")
    again = ConversationModel.from_pretrained(tmp_path / "saved", device="cpu")
    encoding = model.tokenizer(TURNS)
    assert again.tokenizer(TURNS) == encoding
    assert torch.equal(logits(again.hf_model, encoding), logits(model.hf_model, encoding))


def test_a_padded_embedding_keeps_its_other_rows(padded: Path) -> None:
    # Were the spare rows given the end-of-text row too, each of them would be as likely as it where a turn ends.
    original = AutoModelForCausalLM.from_pretrained(padded)
    model = ConversationModel.from_pretrained(padded, device="cpu")
    changed = [i for i in range(448) if not torch.equal(row(model.hf_model, i), row(original, i))]
    assert changed == [403]


def test_a_model_joined_with_its_tokenizer_again_keeps_the_row(padded: Path) -> None:
    model = ConversationModel.from_pretrained(padded, device="cpu")
    with torch.no_grad():  # as training would
        model.hf_model.get_input_embeddings().weight[403].add_(1.0)
    trained = row(model.hf_model, 403)
    again = ConversationModel(model.hf_model, model.tokenizer)
    assert torch.equal(row(again.hf_model, 403), trained)


@pytest.fixture
def old_folder(gpt2_folder: Path, tmp_path: Path) -> Path:
    """What the original library saved: GPT-2 with `<sep>` named as its separator but no row for it."""
    folder = Path(shutil.copytree(gpt2_folder, tmp_path / "old"))
    path = folder / "tokenizer_config.json"
    path.write_text(json.dumps(json.loads(path.read_text(encoding="utf-8")) | {"sep_token": "<sep>"}))
    assert AutoTokenizer.from_pretrained(folder).sep_token_id == 50257
    return folder


@pytest.mark.slow
def test_a_folder_of_the_original_library_works(old_folder: Path, gpt2_folder: Path, tmp_path: Path) -> None:
    new = ConversationModel.from_pretrained(gpt2_folder, device="cpu")
    old = ConversationModel.from_pretrained(old_folder, device="cpu")
    assert old.tokenizer.sep_token_id < rows(old)[0]
    # It was trained with id 50256, GPT-2's unknown token; whichever id it has now, the model computes the same.
    assert torch.allclose(
        logits(old.hf_model, old.tokenizer(TURNS))[:, :50257],
        logits(new.hf_model, new.tokenizer(TURNS)),
        atol=1e-6,
    )
    assert 50256 in old.tokenizer.stop_token_ids

    old.save_pretrained(tmp_path / "saved")
    again = ConversationModel.from_pretrained(tmp_path / "saved", device="cpu")
    assert again.tokenizer(TURNS) == old.tokenizer(TURNS)
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").sep_token_id == old.tokenizer.sep_token_id
    assert rows(again) == rows(old)


@pytest.mark.slow
def test_gpt2_still_generates_with_50256_after_save_and_load(gpt2_folder: Path, tmp_path: Path) -> None:
    ConversationModel.from_pretrained(gpt2_folder, device="cpu").save_pretrained(tmp_path)
    loaded = ConversationModel.from_pretrained(tmp_path, device="cpu")
    assert loaded.tokenizer.stop_token_ids == [50256]
    context = ["Hello", "How are you"]
    assert loaded.tokenizer(context)["input_ids"] == [50256, 15496, 50256, 2437, 389, 345, 50256]
    [response] = loaded.generate(context, max_new_tokens=3).responses
    assert isinstance(response, str)


def test_a_tokenizer_of_another_model_is_refused(bytelevel_folder: Path, unigram_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bytelevel_folder, tmp_path / "mixed"))
    ConversationTokenizer.from_pretrained(unigram_folder, use_token_types=False).save_pretrained(folder)
    with pytest.raises(ModelLoadError, match="embedding has 403 rows, but the vocabulary has 466 entries"):
        ConversationModel.from_pretrained(folder, device="cpu")


def test_a_saved_layout_whose_separator_has_no_row_is_refused(
    bytelevel_tokenizer: ConversationTokenizer, bytelevel_folder: Path, tmp_path: Path
) -> None:
    # Saved with a tokenizer that had `<sep>` added, beside the weights from before.
    folder = Path(shutil.copytree(bytelevel_folder, tmp_path / "mixed"))
    bytelevel_tokenizer.save_pretrained(folder)
    with pytest.raises(ModelLoadError, match="the separator is 403"):
        ConversationModel.from_pretrained(folder, device="cpu")


def test_token_types_for_an_architecture_that_takes_none_are_refused(bytelevel_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bytelevel_folder, tmp_path / "typed"))
    ConversationTokenizer.from_pretrained(folder, use_token_types=True).save_pretrained(folder)
    with pytest.raises(ModelLoadError, match="requires token types, but llama takes none"):
        ConversationModel.from_pretrained(folder, device="cpu")


def test_a_model_from_scratch_gets_the_tokenizers_separator(
    bytelevel_tokenizer: ConversationTokenizer, tmp_path: Path
) -> None:
    config = LlamaConfig(
        vocab_size=len(bytelevel_tokenizer),
        hidden_size=8,
        intermediate_size=8,
        num_hidden_layers=1,
        num_attention_heads=1,
        max_position_embeddings=32,
    )
    model = ConversationModel.from_config(config, bytelevel_tokenizer, device="cpu")
    model.save_pretrained(tmp_path)
    loaded = ConversationModel.from_pretrained(tmp_path, device="cpu")
    encoding = model.tokenizer(["Hello", "Hi"])
    assert loaded.tokenizer(["Hello", "Hi"]) == encoding == bytelevel_tokenizer(["Hello", "Hi"])
    assert torch.equal(logits(loaded.hf_model, encoding), logits(model.hf_model, encoding))
