"""The store of files: names, limits, restarts, and what is refused."""

import json
from pathlib import Path

import pytest

from convmodel.errors import ConfigError, SaveError
from convmodel.server.errors import ApiError
from convmodel.server.fine_tuning.file_store import FileStore
from convmodel.server.settings import TrainingLimits


def test_a_file_appears_whole_and_disappears_whole(tmp_path: Path) -> None:
    store = FileStore(tmp_path, TrainingLimits())
    with store.incoming() as file:
        file.write(b"{}\n")
        assert store.all() == []
        record = store.store(file, "talks.jsonl", "fine-tune")
    assert store.path(record.id).read_bytes() == b"{}\n"
    assert FileStore(tmp_path, TrainingLimits()).get(record.id) == record
    store.delete(record.id)
    assert [*tmp_path.iterdir()] == []
    with pytest.raises(ApiError, match="there is no file"):
        store.delete(record.id)


def test_a_file_that_is_not_stored_leaves_nothing(tmp_path: Path) -> None:
    store = FileStore(tmp_path, TrainingLimits())
    with store.incoming() as file:
        file.write(b"{}\n")
        file.finish()
    assert [*tmp_path.iterdir()] == []
    assert store._incoming == set()


def test_files_that_arrive_count_together(tmp_path: Path) -> None:
    store = FileStore(tmp_path, TrainingLimits(total_bytes=10, file_bytes=8))
    with store.incoming() as first, store.incoming() as second:
        first.write(b"12345")
        with pytest.raises(ApiError, match="larger than 8 bytes: split it"):
            second.write(b"123456789")
        second.write(b"12345")
        with pytest.raises(ApiError, match="larger than 10 bytes: delete some") as error:
            first.write(b"1")
        assert error.value.status == 507
    store.add("results.csv", "fine-tune-results", b"x" * 20)  # the server's own


def test_a_file_of_the_server_replaces_the_one_of_its_id(tmp_path: Path) -> None:
    store = FileStore(tmp_path, TrainingLimits())
    for content in (b"first", b"second"):
        record = store.add("results.csv", "fine-tune-results", content, id="file-1")
    assert [one.id for one in store.all()] == ["file-1"]
    assert (record.bytes, store.path("file-1").read_bytes()) == (6, b"second")


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("talks.jsonl", "talks.jsonl"), ("/etc/passwd", "passwd"), ("..\\..\\a b.jsonl", "a b.jsonl"),
        ("a\n\x1b[31mb\0.jsonl", "a[31mb.jsonl"), ("", "file"), ("../..", "file"), ("x" * 999, "x" * 255),
        ("Gespräche.jsonl", "Gespräche.jsonl"),
    ],
)  # fmt: skip
def test_names_are_shown_and_no_paths(tmp_path: Path, name: str, shown: str) -> None:
    record = FileStore(tmp_path, TrainingLimits()).add(name, "fine-tune", b"{}\n")
    assert record.filename == shown


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"id": "other"}', "RECORD"])
def test_a_damaged_record_is_reported(tmp_path: Path, text: str) -> None:
    record = FileStore(tmp_path, TrainingLimits()).add("a", "fine-tune", b"{}\n")
    path = tmp_path / f"{record.id}.json"
    path.write_text(path.read_text().replace('"fine-tune"', '"other"') if text == "RECORD" else text)
    with pytest.raises(ConfigError, match=r"json is damaged: restore it, or remove it to drop the file"):
        FileStore(tmp_path, TrainingLimits())


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    store = FileStore(tmp_path, TrainingLimits())
    record = store.add("a", "fine-tune", b"{}\n")
    store.path(record.id).unlink()
    with pytest.raises(ConfigError, match=r"jsonl is missing: restore it, or remove .*json"):
        FileStore(tmp_path, TrainingLimits())


def test_a_record_that_cannot_be_written_leaves_no_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = FileStore(tmp_path, TrainingLimits())

    def full(path: Path, text: str) -> None:
        json.loads(text)
        raise SaveError("no room")

    monkeypatch.setattr("convmodel.server.fine_tuning.file_store.replace_text", full)
    with pytest.raises(SaveError, match="no room"):
        store.add("a", "fine-tune", b"{}\n")
    assert [*tmp_path.iterdir()] == []
    (tmp_path / "file").write_text("")
    with pytest.raises(SaveError, match="cannot be written"):
        FileStore(tmp_path / "file", TrainingLimits())


def test_a_file_that_the_server_made_for_a_client_counts_like_an_upload(tmp_path: Path) -> None:
    store = FileStore(tmp_path / "files", TrainingLimits(total_bytes=10, files=2))
    made = tmp_path / "train.jsonl"
    made.write_bytes(b"12345")
    record = store.take(made, "chat.train.jsonl", "fine-tune", id="file-1")
    assert (record.bytes, record.filename, store.path("file-1").read_bytes()) == (5, "chat.train.jsonl", b"12345")
    assert store.has("file-1")
    assert [path.name for path in tmp_path.iterdir()] == ["files"]
    assert store.take(made, "chat.train.jsonl", "fine-tune", id="file-1") == record  # the server was killed here
    made.write_bytes(b"123456")
    with pytest.raises(ApiError, match="all files together would be larger than 10 bytes"):
        store.take(made, "valid.jsonl", "fine-tune", id="file-2")
    store.add("r.csv", "fine-tune-results", b"1")
    with pytest.raises(ApiError, match="there are 2 files, which is the limit"):
        store.take(made, "valid.jsonl", "fine-tune", id="file-2")
    assert made.read_bytes() == b"123456"
    assert not store.has("file-2")
