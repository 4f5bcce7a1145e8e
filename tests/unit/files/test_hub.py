"""Names to files: refusals of the Hub, the models of the package."""

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
    find_file,
    is_path,
    near_name,
    resolve_builtin,
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
    monkeypatch.setattr("convmodel.files.download._require_answer", lambda endpoint: None)
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
    assert not takes_token_types(CHITCHAT, {})  # an unknown name would be taken for a GPT-2
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
