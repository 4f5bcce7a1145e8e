"""Folders on disk: written whole or not at all."""

import errno
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

from convmodel.errors import SaveError
from convmodel.files.atomic import (
    remove_folder,
    remove_leftovers,
    replace_text,
    require_writable,
    staged,
    staged_folder,
)


def contents(folder: Path) -> dict[str, str]:
    """Every file below a folder, hidden ones included."""
    return {str(p.relative_to(folder)): p.read_text(encoding="utf-8") for p in folder.rglob("*") if p.is_file()}


def write(folder: Path, **files: str) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text, encoding="utf-8")


def test_files_come_into_place_when_the_block_ends(tmp_path: Path) -> None:
    place = tmp_path / "models" / "first"

    with staged(place) as stage:
        write(stage, a="1", b="2")
        assert not (place / "a").exists()

    assert contents(tmp_path) == {"models/first/a": "1", "models/first/b": "2"}


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such modes")
@pytest.mark.parametrize("write", [staged, staged_folder])
def test_all_files_have_the_mode_of_a_new_file(tmp_path: Path, write: Any) -> None:
    old_mask = os.umask(0o027)
    try:
        with write(tmp_path / "model") as stage:
            (stage / "config.json").touch()
            (stage / "model.safetensors").touch(mode=0o600)  # as safetensors makes it
            (stage / "more").mkdir()
            (stage / "more" / "file").touch(mode=0o777)
    finally:
        os.umask(old_mask)

    files = [path for path in (tmp_path / "model").rglob("*") if path.is_file()]
    assert {path.name: oct(path.stat().st_mode & 0o777) for path in files} == dict.fromkeys(
        ["config.json", "model.safetensors", "file"], "0o640"
    )


def test_a_name_will_do_for_the_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)

    with staged("model") as stage:
        write(stage, a="1")

    assert contents(tmp_path) == {"model/a": "1"}


def test_files_of_the_same_name_are_replaced_and_others_stay(tmp_path: Path) -> None:
    write(tmp_path, a="old", mine="notes")

    with staged(tmp_path) as stage:
        write(stage, a="new", b="new")

    assert contents(tmp_path) == {"a": "new", "b": "new", "mine": "notes"}


def test_a_folder_replaces_the_folder_of_its_name_as_a_whole(tmp_path: Path) -> None:
    write(tmp_path, a="old")
    write(tmp_path / "templates", tools="old", rag="old")

    for text in ("new", "newer"):
        with staged(tmp_path) as stage:
            write(stage, a=text)
            write(stage / "templates", tools=text)

    assert contents(tmp_path) == {"a": "newer", "templates/tools": "newer"}


def fail(place: Path, error: BaseException) -> None:
    """Writes two files and then fails."""
    with staged(place) as stage:
        write(stage, a="new", b="new")
        raise error


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyboardInterrupt()])
def test_a_block_that_fails_leaves_the_place_as_it_was(tmp_path: Path, error: BaseException) -> None:
    write(tmp_path, a="old")

    with pytest.raises(type(error)):
        fail(tmp_path, error)

    assert contents(tmp_path) == {"a": "old"}


@pytest.mark.parametrize("place", ["model", "models/second/third"])
def test_a_block_that_fails_leaves_no_folder_where_none_was(tmp_path: Path, place: str) -> None:
    with pytest.raises(ValueError, match="a bug"):
        fail(tmp_path / place, ValueError("a bug"))

    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_inside_the_block_names_the_place(tmp_path: Path) -> None:
    write(tmp_path, a="old")

    with pytest.raises(SaveError, match=f"{tmp_path} cannot be written: No space left on device; choose another"):
        fail(tmp_path, OSError(28, "No space left on device"))

    assert contents(tmp_path) == {"a": "old"}


@pytest.mark.parametrize("blocker", ["a", "b"])
def test_a_folder_in_the_way_of_a_file_leaves_the_place_as_it_was(tmp_path: Path, blocker: str) -> None:
    write(tmp_path, **{name: "old" for name in "ab" if name != blocker})
    write(tmp_path / blocker, mine="notes")
    before = contents(tmp_path)

    with pytest.raises(SaveError, match=f"{tmp_path} cannot be written"), staged(tmp_path) as stage:
        write(stage, a="new", b="new")

    assert contents(tmp_path) == before


def test_a_move_that_fails_half_way_leaves_the_place_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, a="old", b="old")
    replace, moved = Path.replace, []

    def fail_at_the_second(path: Path, target: Any) -> Path:
        if Path(target) == tmp_path / "b" and not moved:
            moved.append(path)
            raise OSError(5, "Input/output error")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", fail_at_the_second)
    with pytest.raises(SaveError, match="Input/output error"), staged(tmp_path) as stage:
        write(stage, a="new", b="new")

    assert contents(tmp_path) == {"a": "old", "b": "old"}


@pytest.mark.parametrize("failing", ["templates", "z"])
@pytest.mark.parametrize("existed", [True, False])
def test_a_move_that_fails_half_way_leaves_folders_as_they_were(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str, existed: bool
) -> None:
    write(tmp_path, a="old")
    if existed:
        write(tmp_path / "templates", tools="old", rag="old")
    before = contents(tmp_path)
    replace = Path.replace

    def fail_at_one(path: Path, target: Any) -> Path:
        if path.parent.name == "new" and path.name == failing:
            raise OSError(5, "Input/output error")
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", fail_at_one)
    with pytest.raises(SaveError, match="Input/output error"), staged(tmp_path) as stage:
        write(stage, **{"a": "new", "templates/tools": "new", "z": "new"})

    assert contents(tmp_path) == before
    assert (tmp_path / "templates").exists() is existed


def test_a_file_in_the_way_of_a_folder_leaves_the_place_as_it_was(tmp_path: Path) -> None:
    write(tmp_path, a="old", templates="mine")

    with pytest.raises(SaveError, match=f"{tmp_path} cannot be written"), staged(tmp_path) as stage:
        write(stage, **{"a": "new", "templates/tools": "new"})

    assert contents(tmp_path) == {"a": "old", "templates": "mine"}


@pytest.mark.parametrize("place", ["file", "file/model"])
def test_a_file_where_the_folder_should_be_is_refused(tmp_path: Path, place: str) -> None:
    write(tmp_path, file="mine")

    with pytest.raises(SaveError, match=f"{place} cannot be written: .*; choose another folder"):
        require_writable(tmp_path / place)

    assert contents(tmp_path) == {"file": "mine"}


def test_a_folder_that_may_not_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(**options: Any) -> str:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("tempfile.mkdtemp", refuse)  # tests may run as root, who may write anywhere
    with pytest.raises(SaveError, match="cannot be written: Permission denied"):
        require_writable(tmp_path / "model")

    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("make", [staged, lambda place: staged_folder(place / "checkpoint-1")])
def test_another_process_that_removes_the_place_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, make: Any
) -> None:
    place = tmp_path / "model"
    mkdtemp, races = tempfile.mkdtemp, iter([True, True, False])

    def lose(**options: Any) -> str:
        if next(races):
            place.rmdir()
        return mkdtemp(**options)

    monkeypatch.setattr("tempfile.mkdtemp", lose)
    with make(place) as stage:
        write(stage, a="1")

    assert list(contents(place).values()) == ["1"]


@pytest.mark.parametrize("exists", [True, False])
def test_asking_whether_a_place_can_be_written_leaves_no_trace(tmp_path: Path, exists: bool) -> None:
    place = tmp_path / "models" / "first"
    if exists:
        write(place, mine="notes")

    require_writable(place)

    assert contents(tmp_path) == ({"models/first/mine": "notes"} if exists else {})
    assert (tmp_path / "models").exists() is exists


# Whole folders


def test_a_folder_appears_when_the_block_ends(tmp_path: Path) -> None:
    place = tmp_path / "run" / "checkpoint-1"

    with staged_folder(place) as stage:
        write(stage, a="1")
        write(stage / "deeper", b="2")
        assert not place.exists()

    assert contents(tmp_path) == {"run/checkpoint-1/a": "1", "run/checkpoint-1/deeper/b": "2"}
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["checkpoint-1"]


def test_a_folder_takes_the_place_of_the_one_before(tmp_path: Path) -> None:
    write(tmp_path / "checkpoint-1", a="old", b="old")
    write(tmp_path / "checkpoint-2", a="other")

    with staged_folder(tmp_path / "checkpoint-1") as stage:
        write(stage, a="new")

    assert contents(tmp_path) == {"checkpoint-1/a": "new", "checkpoint-2/a": "other"}


@pytest.mark.parametrize("error", [ValueError("a bug"), KeyboardInterrupt()])
def test_a_folder_that_is_not_finished_never_appears(tmp_path: Path, error: BaseException) -> None:
    write(tmp_path / "checkpoint-1", a="old")

    def fail() -> None:
        with staged_folder(tmp_path / "checkpoint-1") as stage:
            write(stage, a="new")
            raise error

    with pytest.raises(type(error)):
        fail()

    assert contents(tmp_path) == {"checkpoint-1/a": "old"}
    assert len(list(tmp_path.iterdir())) == 1


def noted(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Notes what is synced and renamed: the name and the size of a file, the name of a folder."""
    done: list[str] = []
    sync, rename, replace = os.fsync, Path.rename, Path.replace

    def note_sync(descriptor: int) -> None:
        sync(descriptor)
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        done.append(f"{path.name} {path.stat().st_size}" if path.is_file() else path.name)

    def note_rename(path: Path, target: Path) -> Path:
        done.append("rename")
        return rename(path, target)

    def note_replace(path: Path, target: Path) -> Path:
        done.append(f"rename {path.name}")
        return replace(path, target)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(Path, "rename", note_rename)
    monkeypatch.setattr(Path, "replace", note_replace)
    return done


def test_everything_is_on_the_disk_before_the_folder_is_renamed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = noted(monkeypatch)
    with staged_folder(tmp_path / "checkpoint-1") as stage:
        write(stage, a="1", b="2")

    assert sorted(done[:2]) == ["a 1", "b 1"]
    assert done[2:] == ["new", "rename", tmp_path.name]


def test_a_full_disk_names_the_folder_and_not_the_stage(tmp_path: Path) -> None:
    def fail() -> None:
        with staged_folder(tmp_path / "checkpoint-1") as stage, staged(stage) as files:
            write(files, a="new")
            raise OSError(28, "No space left on device")

    with pytest.raises(SaveError, match=f"^{tmp_path}/checkpoint-1 cannot be written: No space left on device;"):
        fail()

    assert list(tmp_path.iterdir()) == []


def test_a_removed_folder_leaves_nothing(tmp_path: Path) -> None:
    write(tmp_path / "checkpoint-1" / "deeper", a="1")

    remove_folder(tmp_path / "checkpoint-1")

    assert list(tmp_path.iterdir()) == []


def test_a_kill_while_removing_leaves_no_half_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "checkpoint-1", a="1", b="2")
    monkeypatch.setattr("shutil.rmtree", lambda path, **options: (path / "old" / "a").unlink())

    remove_folder(tmp_path / "checkpoint-1")
    monkeypatch.undo()

    assert not (tmp_path / "checkpoint-1").exists()
    assert list(contents(tmp_path).values()) == ["2"]
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_only_leftovers_are_removed(tmp_path: Path) -> None:
    write(tmp_path / ".convmodel-abc" / "new", a="half")
    write(tmp_path / "mine", a="1")

    remove_leftovers(tmp_path)

    assert contents(tmp_path) == {"mine/a": "1"}


# One text file


def test_a_text_file_is_replaced_and_nothing_else_is_left(tmp_path: Path) -> None:
    (tmp_path / "report.html").write_text("old")

    replace_text(tmp_path / "report.html", "new")

    assert contents(tmp_path) == {"report.html": "new"}


def test_a_text_file_is_on_the_disk_before_it_takes_its_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = noted(monkeypatch)

    replace_text(tmp_path / "job.json", "new")

    part = done[0].partition(" ")[0]
    assert part.startswith(".job.json.")
    assert done == [f"{part} 3", f"rename {part}", tmp_path.name]


def test_a_folder_that_may_be_written_and_not_read_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened = os.open

    def refuse(path: Any, *arguments: Any, **options: Any) -> int:
        if Path(path) == tmp_path:  # the tests may run as root, who may read everything
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return opened(path, *arguments, **options)

    monkeypatch.setattr(os, "open", refuse)
    replace_text(tmp_path / "report.html", "new")

    assert contents(tmp_path) == {"report.html": "new"}


@pytest.mark.parametrize("name", ["x" * 250, "missing/report.html", "file/report.html", "folder"])
def test_a_text_file_that_cannot_be_written_is_refused(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()

    with pytest.raises(SaveError, match=f"{name} cannot be written: .*; choose another file"):
        replace_text(tmp_path / name, "new")

    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_written_to_and_not_replaced(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    try:
        replace_text(pipe, "new")
        assert os.read(reader, 10) == b"new"
    finally:
        os.close(reader)

    assert pipe.is_fifo()
