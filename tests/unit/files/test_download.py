"""Whether the Hub answers, what is in its cache, and downloads of weights."""

import shutil
from pathlib import Path
from unittest.mock import Mock

import pytest
from gguf_files import write_gguf

from convmodel import ConversationModel
from convmodel.errors import ModelLoadError
from convmodel.files.download import download, is_downloaded, reachable_options, weights_to_download
from convmodel.files.hub import CHITCHAT
from convmodel.layout.tokenizer_files import load_tokenizer


def test_without_a_network_a_model_is_refused_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    # The tests run with HF_HUB_OFFLINE, so the first request fails as it does without a network.
    message = "there is no folder gpt2, and the Hub, which may have it, does not answer: connect, give a folder, or use"
    with pytest.raises(ModelLoadError, match=f"{message} {CHITCHAT}$"):
        load_tokenizer("gpt2", {})
    Path("gpt").mkdir()
    with pytest.raises(ModelLoadError, match=f"does not answer: did you mean gpt\\? {CHITCHAT} needs no download$"):
        reachable_options("gpt2", {})


def test_a_model_in_the_cache_is_loaded_without_asking_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convmodel.files.download.is_downloaded", lambda name, options: True)
    assert reachable_options("gpt2", {"revision": "v1"}) == {"revision": "v1", "local_files_only": True}
    assert reachable_options(CHITCHAT, {}) == {}
    monkeypatch.setattr("convmodel.files.download._require_answer", lambda endpoint: None)
    assert reachable_options("gpt2", {}) == {}


def test_what_is_in_the_cache(tmp_path: Path) -> None:
    assert not is_downloaded("ann/chat", {"cache_dir": tmp_path})
    assert not is_downloaded("not a name", {"cache_dir": tmp_path})
    snapshot = tmp_path / "models--ann--chat" / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").touch()
    refs = tmp_path / "models--ann--chat" / "refs"
    refs.mkdir()
    (refs / "main").write_text("abc")
    assert is_downloaded("ann/chat", {"cache_dir": tmp_path})
    assert not is_downloaded("ann/chat", {"cache_dir": tmp_path, "subfolder": "sub"})
    assert not is_downloaded("ann/chat", {"cache_dir": tmp_path, "gguf_file": "model.gguf"})


@pytest.mark.parametrize("subfolder", [None, "sub/inside"])
@pytest.mark.parametrize("gguf_file", [None, "model.gguf"])
def test_what_the_options_select_is_loaded_from_the_cache_without_a_network(
    tmp_path: Path, smollm2_folder: Path, gguf_file: str | None, subfolder: str | None
) -> None:
    place = tmp_path / "models--ann--chat" / "snapshots" / "abc" / (subfolder or "")
    if gguf_file is None:
        shutil.copytree(smollm2_folder, place)
    else:
        place.mkdir(parents=True)
        write_gguf(place / gguf_file, smollm2_folder)
    refs = tmp_path / "models--ann--chat" / "refs"
    refs.mkdir()
    (refs / "main").write_text("abc")
    options = {"cache_dir": tmp_path, "subfolder": subfolder, "gguf_file": gguf_file}

    given = {name: value for name, value in options.items() if value is not None}
    model = ConversationModel.from_pretrained("ann/chat", device="cpu", **given)

    expected = ConversationModel.from_pretrained(smollm2_folder, device="cpu")
    assert model.hf_model.num_parameters() == expected.hf_model.num_parameters()
    with pytest.raises(ModelLoadError, match="the Hub, which may have it, does not answer"):
        ConversationModel.from_pretrained("ann/chat", **given | {"subfolder": "other"})


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"model.safetensors": 3}),
        ({"subfolder": "sub"}, {"pytorch_model.bin": 5}),
        ({"gguf_file": "small.gguf"}, {"small.gguf": 7}),
        ({"gguf_file": "small.gguf", "subfolder": "sub"}, {"small.gguf": 11}),
    ],
)
def test_the_weights_to_download_are_those_that_the_options_select(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, options: dict[str, str], expected: dict[str, int]
) -> None:
    sizes = {"model.safetensors": 3, "sub/pytorch_model.bin": 5, "small.gguf": 7, "sub/small.gguf": 11}
    siblings = [Mock(rfilename=name, size=size) for name, size in sizes.items()]
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **__: Mock(siblings=siblings))

    assert weights_to_download("ann/chat", {"cache_dir": tmp_path} | options) == expected


def test_a_download_is_known_by_its_size(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    sizes = {
        "model-00001-of-00002.safetensors": 5,
        "model-00002-of-00002.safetensors": 7,
        "pytorch_model.bin": 12,
        "onnx/model.safetensors": 99,
        "config.json": 1,
    }
    siblings = [Mock(rfilename=name, size=size) for name, size in sizes.items()]
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", lambda *_, **options: Mock(siblings=siblings))
    first, second = list(sizes)[:2]

    assert weights_to_download("ann/chat", {"cache_dir": tmp_path}) == {first: 5, second: 7}
    assert weights_to_download("ann/chat", {"local_files_only": True}) == {}
    assert weights_to_download(CHITCHAT, {}) == {}

    def fetch(name: str, file: str, *, tqdm_class: type, **options: object) -> None:
        assert (name, options) == ("ann/chat", {"cache_dir": tmp_path})
        with tqdm_class(total=sizes[file], desc=file) as bar:
            for _ in range(sizes[file]):
                bar.update(1)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fetch)
    arrived: list[float] = []
    download("ann/chat", [first, second], {"cache_dir": tmp_path, "dtype": "auto"}, arrived.append)
    assert arrived == list(range(1, 13))


def test_a_size_that_is_not_known_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.HfApi.model_info", Mock(side_effect=OSError("no such page")))
    assert weights_to_download("ann/chat", {}) == {}
