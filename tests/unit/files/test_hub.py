"""Names to files: downloads, refusals of the Hub, the models of the package."""

from pathlib import Path
from unittest.mock import Mock

import pytest
import transformers.utils.hub  # noqa: F401  imports hf_hub_download, which tests here replace
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from convmodel.errors import ModelLoadError
from convmodel.files.hub import (
    CHITCHAT,
    adapter_folder,
    download,
    find_file,
    is_downloaded,
    is_path,
    near_name,
    reachable_options,
    resolve_builtin,
    weights_to_download,
)
from convmodel.layout.tokenizer_files import load_tokenizer, takes_token_types


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (GatedRepoError, "the repository is gated: request access on its page, then log in"),
        (RepositoryNotFoundError, "no such repository, or a private one: log in"),
        (RevisionNotFoundError, "the repository has no such revision"),
    ],
)
def test_what_the_hub_refuses_is_named(
    kind: type[HfHubHTTPError], reason: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> str:
        raise kind("403 Client Error. (Request ID: 1)\n\nCannot access the repository", response=Mock())

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    monkeypatch.setattr("convmodel.files.hub._require_answer", lambda endpoint: None)
    for load in (load_tokenizer, adapter_folder):
        with pytest.raises(ModelLoadError, match=rf"there is no folder ann/chat, .* \({reason}.*\): check the name"):
            load("ann/chat", {})


def test_only_the_options_of_a_download_are_passed_on(monkeypatch: pytest.MonkeyPatch) -> None:
    def download(name: str, file: str, **options: object) -> str:
        assert (name, file, options) == ("ann/chat", "config.json", {"revision": "v1", "token": "secret"})
        return "there"

    monkeypatch.setattr("huggingface_hub.hf_hub_download", download)
    options = {"revision": "v1", "token": "secret", "trust_remote_code": False, "gguf_file": "model.gguf"}
    assert find_file("ann/chat", "config.json", options) == Path("there")


def test_a_built_in_name_is_resolved_everywhere() -> None:
    folder = Path(resolve_builtin(CHITCHAT))
    assert folder.name == "chitchat"
    assert load_tokenizer(CHITCHAT, {})[1] == load_tokenizer(str(folder), {})[1]
    assert takes_token_types(CHITCHAT, {})
    assert adapter_folder(CHITCHAT, {}) is None
    with pytest.raises(ModelLoadError, match=r"no model builtin:\.\./chitchat: use builtin:chitchat"):
        load_tokenizer("builtin:../chitchat", {})


@pytest.mark.parametrize("kind", [EntryNotFoundError, LocalEntryNotFoundError])
def test_a_file_that_a_repository_or_its_cache_lacks_is_none(
    kind: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.hf_hub_download", Mock(side_effect=kind("no such file")))
    assert find_file("ann/chat", "adapter_config.json", {}) is None
    assert adapter_folder("ann/chat", {}) is None


def test_a_file_of_a_folder_is_found_without_the_hub(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "config.json").touch()
    assert find_file(str(tmp_path), "config.json", {}) is None
    assert find_file(str(tmp_path), "config.json", {"subfolder": "sub"}) == tmp_path / "sub" / "config.json"


def test_a_hub_id_is_not_a_path() -> None:
    assert [is_path(name) for name in ("gpt2", "ann/chat", "a/b/c", "/a", "./a", "~/a", "a\\b")] == [False] * 2 + [
        True
    ] * 5


def test_without_a_network_a_model_is_refused_at_once(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    # The tests run with HF_HUB_OFFLINE, so the first request fails as it does without a network.
    message = "there is no folder gpt2, and the Hub does not answer, to download it: connect, give a folder, or use"
    with pytest.raises(ModelLoadError, match=f"{message} {CHITCHAT}$"):
        load_tokenizer("gpt2", {})
    Path("gpt").mkdir()
    with pytest.raises(ModelLoadError, match=f"to download it: did you mean gpt\\? {CHITCHAT} needs no download$"):
        reachable_options("gpt2", {})


def test_a_model_in_the_cache_is_loaded_without_asking_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("convmodel.files.hub.is_downloaded", lambda name, options: True)
    assert reachable_options("gpt2", {"revision": "v1"}) == {"revision": "v1", "local_files_only": True}
    assert reachable_options(CHITCHAT, {}) == {}
    monkeypatch.setattr("convmodel.files.hub._require_answer", lambda endpoint: None)
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


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("my-modle", "my-model"),
        ("My-Model2", "my-model"),
        ("sub/modle-1", "sub/model-1"),
        ("chitchat", CHITCHAT),
        ("chit-chat", CHITCHAT),
        ("builtin:chichat", CHITCHAT),
        ("gpt2", ""),
        ("nowhere/model", ""),
        (".hiden", ""),
    ],
)
def test_a_name_near_another_is_a_question(
    name: str, near: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("my-model", "sub/model-1", ".hidden"):
        Path(folder).mkdir(parents=True)
    Path("gpt22").touch()  # a file is no model
    assert near_name(name) == (f"did you mean {near}?" if near else "")


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
