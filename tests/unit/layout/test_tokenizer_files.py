"""Tokenizers from folders and from the Hub: what is found, and the one sentence for what is not."""

import json
import shutil
from pathlib import Path

import pytest

from convmodel.errors import ConvModelError, ModelLoadError
from convmodel.layout.config import FILE_NAME, LayoutConfig
from convmodel.layout.tokenizer import ConversationTokenizer
from convmodel.layout.tokenizer_files import load_tokenizer, takes_token_types

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def folder(unigram_folder: Path, tmp_path: Path) -> Path:
    """A plain Hugging Face checkpoint that a test may spoil."""
    return Path(shutil.copytree(unigram_folder, tmp_path / "model"))


def cache(folder: Path, root: Path) -> Path:
    """Makes what the hub's client leaves in its cache when it has downloaded a folder as `ann/chat`."""
    place = root / "models--ann--chat"
    shutil.copytree(folder, place / "snapshots" / COMMIT)
    (place / "refs").mkdir()
    (place / "refs" / "main").write_text(COMMIT, encoding="utf-8")
    return root


def test_a_plain_checkpoint_has_no_layout(folder: Path) -> None:
    hf_tokenizer, layout, stop_ids = load_tokenizer(str(folder), {})
    assert layout is None
    assert stop_ids == (2,)
    assert hf_tokenizer.sep_token == "[SEP]"


def test_a_saved_layout_is_found(folder: Path) -> None:
    layout = LayoutConfig(4, "[SEP]", True, max_length=64)
    (folder / FILE_NAME).write_text(layout.to_json(), encoding="utf-8")
    assert load_tokenizer(str(folder), {})[1] == layout


def test_a_hub_id_is_read_with_its_layout(folder: Path, tmp_path: Path) -> None:
    layout = LayoutConfig(4, "[SEP]", True, max_length=64)
    (folder / FILE_NAME).write_text(layout.to_json(), encoding="utf-8")
    root = cache(folder, tmp_path / "cache")
    tokenizer = ConversationTokenizer.from_pretrained("ann/chat", cache_dir=str(root), revision="main")
    assert tokenizer.layout == layout


def test_a_model_that_plain_transformers_downloaded_loads_offline(folder: Path, tmp_path: Path) -> None:
    # Nobody has asked the hub for a layout then, so the cache does not know that there is none.
    root = cache(folder, tmp_path / "cache")
    for options in ({}, {"local_files_only": True}):
        tokenizer = ConversationTokenizer.from_pretrained("ann/chat", cache_dir=str(root), **options)
        assert tokenizer.sep_token_id == 4


def test_a_folder_comes_before_a_hub_id(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder.parent)
    assert load_tokenizer("model", {})[0].sep_token == "[SEP]"


@pytest.mark.parametrize(
    "name", ["/no/such/folder", "./missing", "../missing", "~/missing", "some/deep/folder", "C:\\models\\chat"]
)
def test_a_path_that_is_no_folder_is_named_without_asking_the_hub(name: str) -> None:
    with pytest.raises(ModelLoadError, match=r"there is no folder .*: give a folder with a model, or a Hub id"):
        load_tokenizer(name, {})


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    path = tmp_path / "model.safetensors"
    path.touch()
    with pytest.raises(ModelLoadError, match="there is no folder"):
        ConversationTokenizer.from_pretrained(path)


@pytest.mark.parametrize("name", ["missing", "ann/missing"])
def test_a_name_that_is_neither_folder_nor_on_the_hub_is_named(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convmodel.files.download._require_answer", lambda endpoint: None)
    with pytest.raises(ModelLoadError, match=f"there is no folder {name}, and the Hub returned no tokenizer of"):
        load_tokenizer(name, {})


@pytest.mark.parametrize("name", ["", "my model", "a//b", "-"])
def test_a_name_that_cannot_be_is_one_sentence(name: str) -> None:
    with pytest.raises(ModelLoadError) as caught:
        load_tokenizer(name, {})
    assert "\n" not in str(caught.value)


def test_an_empty_folder_holds_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="holds no usable tokenizer: ") as caught:
        load_tokenizer(str(tmp_path), {})
    assert str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        *(("tokenizer.json", content) for content in ("", "{", "{}", "[]", "null", "7")),
        *(("tokenizer_config.json", content) for content in ("", "{", "[]", "null", "7")),
    ],
)
def test_corrupted_tokenizer_files_are_one_sentence(name: str, content: str, folder: Path) -> None:
    (folder / name).write_text(content, encoding="utf-8")
    with pytest.raises(ModelLoadError, match="holds no usable tokenizer: ") as caught:
        load_tokenizer(str(folder), {})
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_corrupted_tokenizer_model_is_one_sentence(folder: Path) -> None:
    path = folder / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    content["model"]["vocab"] = "lost"
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(ModelLoadError, match="holds no usable tokenizer"):
        load_tokenizer(str(folder), {})


def test_a_corrupted_layout_keeps_its_own_sentence(folder: Path) -> None:
    (folder / FILE_NAME).write_text("{", encoding="utf-8")
    with pytest.raises(ModelLoadError, match=f"{FILE_NAME} cannot be read: .*; copy it again") as caught:
        load_tokenizer(str(folder), {})
    assert "tokenizer" not in str(caught.value).removeprefix(str(folder))


def test_its_error_is_an_os_error_and_one_of_ours() -> None:
    assert issubclass(ModelLoadError, OSError)
    assert issubclass(ModelLoadError, ConvModelError)


def test_the_architecture_decides_about_token_types(unigram_folder: Path, bytelevel_folder: Path) -> None:
    assert takes_token_types(str(unigram_folder), {})
    assert not takes_token_types(str(bytelevel_folder), {})


def test_a_tokenizer_alone_takes_token_types(folder: Path) -> None:
    (folder / "config.json").unlink()
    assert takes_token_types(str(folder), {})
    assert "token_type_ids" in ConversationTokenizer.from_pretrained(folder)(["Hello"])
