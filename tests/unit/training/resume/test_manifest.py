"""A folder that is not as it was written is told from one that is, and what is wrong is said."""

from pathlib import Path

import pytest

from convmodel.training.resume.manifest import MANIFEST, damage, read_facts, write_manifest

FACTS = {"run": "abc", "step": 3, "keep": True}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "model.safetensors").write_bytes(bytes(range(256)) * 40)
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "a.json").write_text("{}", encoding="utf-8")
    write_manifest(tmp_path, FACTS)
    return tmp_path


def test_a_folder_as_it_was_written_is_whole(folder: Path) -> None:
    assert damage(folder) == ""
    assert read_facts(folder) == FACTS


def test_a_file_that_came_later_is_no_damage(folder: Path) -> None:
    (folder / "notes.txt").write_text("mine", encoding="utf-8")

    assert damage(folder) == ""


def test_a_file_that_was_cut_off_is_named(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(bytes(100))

    assert damage(folder) == "model.safetensors has 100 bytes instead of 10,240"


@pytest.mark.parametrize("place", [0, 5000, 10_239])
def test_a_flipped_bit_is_noticed(folder: Path, place: int) -> None:
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[place] ^= 1
    (folder / "model.safetensors").write_bytes(content)

    assert damage(folder) == "model.safetensors has another hash than when it was written"


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "parts" / "a.json").unlink()

    assert damage(folder) == "parts/a.json is missing"


@pytest.mark.parametrize("content", [None, b"", b'{"files": {', b"[]", b"{}", b"\xff\xfe"])
def test_without_a_manifest_a_folder_is_not_trusted(folder: Path, content: bytes | None) -> None:
    (folder / MANIFEST).unlink()
    if content is not None:
        (folder / MANIFEST).write_bytes(content)

    assert damage(folder) == "it has no readable manifest.json"
    assert read_facts(folder) == {}
