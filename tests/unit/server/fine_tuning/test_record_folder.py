"""Records in files: what holds for jobs and preparations alike."""

import threading
from dataclasses import dataclass
from pathlib import Path

import pytest

from convmodel.errors import ConfigError, SaveError
from convmodel.files.atomic import replace_text
from convmodel.server.errors import ApiError
from convmodel.server.fine_tuning.record_folder import RecordFolder


@dataclass(frozen=True)
class Note:
    id: str
    created_at: float
    text: str = ""
    color: str = ""


def notes(folder: Path) -> RecordFolder[Note]:
    return RecordFolder(folder, "note.json", lambda content: Note(**content), what="note", unknown="note_not_found")


def test_records_are_read_again_in_order(tmp_path: Path) -> None:
    store = notes(tmp_path / "notes")
    store.add(Note("b", 2.0))
    store.add(Note("a", 3.0))
    store.change("a", text="changed")
    assert notes(tmp_path / "notes").all() == [Note("b", 2.0), Note("a", 3.0, "changed")]
    store.forget("b")
    assert not store.path("b").exists()
    assert store.find("b") is None
    with pytest.raises(ApiError, match="there is no note b"):
        store.get("b")
    assert [note.id for note in notes(tmp_path / "notes").all()] == ["a"]


@pytest.mark.parametrize("text", ["{", "[]", '{"id": "a"}', '{"id": "b", "created_at": 1}'])
def test_a_damaged_record_is_reported(tmp_path: Path, text: str) -> None:
    notes(tmp_path).add(Note("a", 1.0))
    (tmp_path / "a/note.json").write_text(text)
    with pytest.raises(ConfigError, match=r"note.json is damaged: restore it, or remove .* to drop the note"):
        notes(tmp_path)


def test_what_cannot_be_written_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = notes(tmp_path)
    store.add(Note("a", 1.0))

    def full(path: Path, text: str) -> None:
        raise SaveError("no room")

    monkeypatch.setattr("convmodel.server.fine_tuning.record_folder.replace_text", full)
    with pytest.raises(SaveError):
        store.add(Note("b", 2.0))
    with pytest.raises(SaveError):
        store.change("a", text="changed")
    assert store.all() == [Note("a", 1.0)]
    assert not store.path("b").exists()
    assert store.force("a", text="changed") == store.get("a") == Note("a", 1.0, "changed")
    assert notes(tmp_path).all() == [Note("a", 1.0)]


@pytest.mark.parametrize("name", ["change", "force"])
def test_no_change_undoes_another(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    store = notes(tmp_path)
    store.add(Note("a", 1.0))
    other = threading.Thread(target=lambda: store.change("a", color="red"))

    def slow(path: Path, text: str) -> None:
        """The other change arrives while the first one is written."""
        if other.ident is None:
            other.start()
            other.join(0.2)
        replace_text(path, text)

    monkeypatch.setattr("convmodel.server.fine_tuning.record_folder.replace_text", slow)
    getattr(store, name)("a", text="changed")
    other.join()
    assert store.get("a") == Note("a", 1.0, "changed", "red")
    assert notes(tmp_path).all() == [store.get("a")]


def test_a_folder_that_cannot_be_written_is_reported(tmp_path: Path) -> None:
    (tmp_path / "notes").write_text("a file")
    with pytest.raises(SaveError, match="notes cannot be written"):
        notes(tmp_path / "notes")
