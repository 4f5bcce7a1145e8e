"""The file that remembers which version is served: kept, checked, and one server's alone."""

import json
from pathlib import Path

import pytest

from convmodel.errors import ConfigError, SaveError
from convmodel.server.serving.improvement_file import FILE, ImprovementFile, JobRecord, changed


def opened(folder: Path, **sources: str) -> ImprovementFile:
    return ImprovementFile(folder, sources or {"chat": "builtin:chitchat"})


def test_versions_are_pushed_popped_and_remembered(tmp_path: Path) -> None:
    file = opened(tmp_path / "better")
    assert (file.version("chat"), file.old_label("chat"), file.source("chat")) == (None, None, "builtin:chitchat")
    for name in ("chat-1", "chat-2"):
        (tmp_path / "better" / name).mkdir()
        file.push("chat", name)
    file.close()
    file = opened(tmp_path / "better")
    assert (file.version("chat"), file.old_label("chat")) == ("chat-2", "chat-1")
    assert file.source("chat") == str(tmp_path / "better" / "chat-2")
    assert file.source("chat", back=2) == "builtin:chitchat"
    file.pop("chat")
    file.close()
    file = opened(tmp_path / "better")
    assert (file.version("chat"), file.old_label("chat")) == ("chat-1", "chat")
    file.close()


def test_the_latest_improvement_is_remembered(tmp_path: Path) -> None:
    file = opened(tmp_path)
    job = JobRecord("chat", "chat-1", pid=7)
    file.record(job)
    file.record(changed(job, "failed", "no room"))
    file.close()
    file = opened(tmp_path)
    assert file.job == JobRecord("chat", "chat-1", "failed", "no room", 7)
    file.close()
    other = opened(tmp_path, other="builtin:chitchat")
    assert other.job is None
    other.close()


def test_models_that_are_not_served_now_keep_their_versions(tmp_path: Path) -> None:
    (tmp_path / "chat-1").mkdir()
    file = opened(tmp_path)
    file.push("chat", "chat-1")
    file.close()
    file = opened(tmp_path, other="some/model")
    (tmp_path / "other-1").mkdir()
    file.push("other", "other-1")
    file.close()
    file = opened(tmp_path)
    assert file.version("chat") == "chat-1"
    file.close()


def test_names_of_folders_are_free_and_plain(tmp_path: Path) -> None:
    file = opened(tmp_path)
    assert file.new_name("../a b/ü", ()) == "a_b-1"
    assert file.new_name("..", ()) == "model-1"
    (tmp_path / "chat-1").mkdir()
    file.log("chat-2").touch()
    assert file.new_name("chat", ["chat-3"]) == "chat-4"
    file.close()


def test_the_name_of_a_deleted_version_never_comes_again(tmp_path: Path) -> None:
    file = opened(tmp_path)
    file.record(JobRecord("chat", "chat-7"))
    file.record(JobRecord("chat", "other-2"))
    file.close()
    file = opened(tmp_path)
    assert [file.new_name(name, ()) for name in ("chat", "other", "more")] == ["chat-8", "other-3", "more-1"]
    file.close()


def test_a_file_of_an_earlier_version_has_the_numbers_in_its_names(tmp_path: Path) -> None:
    (tmp_path / "chat-5").mkdir()
    models = {name: {"source": "builtin:chitchat", "versions": [f"{name}-5"]} for name in ("chat", "gone")}
    job = {"model": "chat", "folder": "chat-9", "state": "failed"}
    (tmp_path / FILE).write_text(json.dumps({"models": models, "job": job}))
    file = opened(tmp_path)
    assert [file.new_name(name, ()) for name in ("chat", "gone")] == ["chat-10", "gone-6"]
    file.close()


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"models": {}}',
        '{"models": {"chat": {"source": "x", "versions": ["../up"]}}, "job": null}',
        '{"models": {"chat": {"source": "x", "versions": "chat-1"}}, "job": null}',
        '{"models": {"chat": {"source": "x", "versions": [".."]}}, "job": null}',
        '{"models": {"chat": {"source": "x", "versions": [""]}}, "job": null}',
        '{"models": {}, "job": {"model": "chat", "folder": "."}}',
        '{"models": {}, "job": {"model": "chat", "folder": ".."}}',
        '{"models": {}, "job": null, "numbers": {"chat": "1"}}',
        '{"models": {}, "job": null, "numbers": [1]}',
        '{"models": {}, "job": {"model": "chat", "folder": "a/b"}}',
        '{"models": {}, "job": {"model": "chat", "folder": "a", "state": "odd"}}',
        '{"models": {}, "job": {"model": "chat", "folder": "a", "more": 1}}',
        '{"models": {}, "job": {"model": "chat", "folder": "a", "pid": "1"}}',
        "[" * 100_000,
    ],
)
def test_a_damaged_file_is_refused_and_the_folder_left_free(tmp_path: Path, content: str) -> None:
    (tmp_path / FILE).write_text(content)
    for _ in range(2):
        with pytest.raises(ConfigError, match=f"{FILE} is damaged: restore it, or remove it"):
            opened(tmp_path)


def test_a_version_that_is_missing_and_another_model_of_the_name_are_refused(tmp_path: Path) -> None:
    entry = {"source": "builtin:chitchat", "versions": ["chat-1"]}
    (tmp_path / FILE).write_text(json.dumps({"models": {"chat": entry}, "job": None}))
    with pytest.raises(ConfigError, match="chat-1 is to be served as chat, and is missing: restore the folder"):
        opened(tmp_path)
    with pytest.raises(ConfigError, match="improvements of builtin:chitchat under the name chat, and other/model is"):
        opened(tmp_path, chat="other/model")


def test_two_servers_cannot_use_one_folder(tmp_path: Path) -> None:
    file = opened(tmp_path)
    with pytest.raises(SaveError, match="another server trains in"):
        opened(tmp_path)
    file.close()
    file.close()
    opened(tmp_path).close()


def test_a_folder_that_cannot_be_written_is_an_error_at_once(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SaveError, match="give another folder to --allow-training"):
        opened(tmp_path / "file" / "better")
