"""A run's folder: what goes on, what is passed over, what is removed, and what is refused."""

import json
import logging
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from convmodel.errors import ConfigError, SaveError
from convmodel.training.resume.manifest import read_facts, write_manifest
from convmodel.training.resume.run_folder import RunFolder, is_unfinished, newest_step

SAME = {"learning_rate": 0.001, "seed": 1}


def write(folder: Path) -> None:
    (folder / "model.safetensors").write_bytes(b"weights")


def begun(place: Path, *steps: int, keep: bool = False, limit: int = 0) -> RunFolder:
    """A run that has begun anew and saved some checkpoints."""
    run = RunFolder(place, SAME, limit=limit)
    run.begin(run.find(False))
    for step in steps:
        run.add(step, write, keep=keep)
    run.close()  # as if its process had ended
    return run


def names(place: Path) -> list[str]:
    return sorted(path.name for path in place.iterdir())


def test_the_newest_checkpoint_is_gone_on_from(tmp_path: Path) -> None:
    begun(tmp_path, 5, 10, 100)

    for resume in (None, True):
        assert RunFolder(tmp_path, SAME).find(resume) == tmp_path / "checkpoint-100"


def test_the_newest_step_is_told_while_the_folder_comes_and_goes(tmp_path: Path) -> None:
    begun(tmp_path / "run", 5, 10, 100)
    (tmp_path / "run" / "checkpoint-200-old").mkdir()
    assert newest_step(tmp_path / "run") == 100
    assert newest_step(tmp_path / "none") == 0

    ended = threading.Event()

    def come_and_go() -> None:
        while not ended.is_set():
            (tmp_path / "new").mkdir()
            (tmp_path / "new").rmdir()

    with ThreadPoolExecutor(1) as pool:
        coming = pool.submit(come_and_go)
        try:
            assert {newest_step(tmp_path / "new") for _ in range(2000)} == {0}
        finally:
            ended.set()
        coming.result()


def test_a_run_goes_on_under_its_name(tmp_path: Path) -> None:
    begun(tmp_path, 5)
    again = RunFolder(tmp_path, SAME)
    again.begin(again.find(None))

    again.add(6, write, keep=False)

    assert RunFolder(tmp_path, SAME).find(None) == tmp_path / "checkpoint-6"


def test_a_folder_without_a_run_begins_one(tmp_path: Path) -> None:
    assert RunFolder(tmp_path / "new", SAME).find(None) is None
    assert not (tmp_path / "new").exists()
    assert not is_unfinished(tmp_path / "new")


def test_a_run_without_checkpoints_begins_again(tmp_path: Path) -> None:
    begun(tmp_path)

    assert is_unfinished(tmp_path)
    for resume in (None, True, False):
        assert RunFolder(tmp_path, SAME).find(resume) is None


def damage_by(kind: str, folder: Path) -> str:
    """Damages a checkpoint and returns what is said of it."""
    if kind == "cut":
        (folder / "model.safetensors").write_bytes(b"weigh")
        return "model.safetensors has 5 bytes instead of 7"
    if kind == "flipped":
        (folder / "model.safetensors").write_bytes(b"Weights")
        return "model.safetensors has another hash than when it was written"
    if kind == "missing":
        (folder / "model.safetensors").unlink()
        return "model.safetensors is missing"
    if kind == "other":
        write_manifest(folder, read_facts(folder) | {"run": "0"})
        return "it belongs to another run"
    (folder / "manifest.json").unlink()
    return "it has no readable manifest.json"


@pytest.mark.parametrize("kind", ["cut", "flipped", "missing", "no manifest", "other"])
def test_what_is_damaged_is_named_and_passed_over(tmp_path: Path, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    begun(tmp_path, 5, 10)
    wrong = damage_by(kind, tmp_path / "checkpoint-10")

    assert RunFolder(tmp_path, SAME).find(None) == tmp_path / "checkpoint-5"

    assert caplog.messages == [f"skipping {tmp_path}/checkpoint-10, which cannot be used: {wrong}"]
    assert (tmp_path / "checkpoint-10").exists()


def damaged_versions(good: bytes) -> list[bytes | None]:
    """Returns a file with one bit of each byte flipped, cut, emptied, of another JSON type, and removed."""
    flipped = [good[:place] + bytes([byte ^ 1 << place % 8]) + good[place + 1 :] for place, byte in enumerate(good)]
    return [*flipped, *(good[:length] for length in range(0, len(good), 7)), b"[]", b"3", b"{}", b"\xff", None]


def put(path: Path, content: bytes | None) -> None:
    path.unlink() if content is None else path.write_bytes(content)


def test_any_damage_to_a_manifest_is_named_and_nothing_is_removed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    begun(tmp_path, 5, 10)
    manifest = tmp_path / "checkpoint-10" / "manifest.json"
    good = manifest.read_bytes()

    for bad in damaged_versions(good):
        put(manifest, bad)
        caplog.clear()
        assert RunFolder(tmp_path, SAME).find(None) == tmp_path / "checkpoint-5", bad
        assert caplog.messages == [
            f"skipping {tmp_path}/checkpoint-10, which cannot be used: it has no readable manifest.json"
        ]

    again = RunFolder(tmp_path, SAME)
    again.begin(again.find(None))
    again.add(6, write, keep=False)
    assert names(tmp_path) == ["checkpoint-10", "checkpoint-5", "checkpoint-6", "run.json"]


@pytest.mark.parametrize("resume", [None, True])
def test_any_damage_to_the_note_of_a_run_loses_none_of_its_checkpoints(
    tmp_path: Path, resume: bool | None, caplog: pytest.LogCaptureFixture
) -> None:
    begun(tmp_path, 5, 10, keep=True)
    note = tmp_path / "run.json"
    good = note.read_bytes()

    for bad in damaged_versions(good):
        put(note, bad)
        caplog.clear()
        assert is_unfinished(tmp_path)
        assert RunFolder(tmp_path, SAME).find(resume) == tmp_path / "checkpoint-10", bad
        assert caplog.messages == [f"{note} is damaged or missing: its run is known from the checkpoints"]

    with pytest.raises(ConfigError, match="differs"):
        RunFolder(tmp_path, SAME | {"seed": 2}).find(resume)
    again = RunFolder(tmp_path, SAME)
    again.begin(again.find(resume))
    again.add(15, write, keep=False)
    assert names(tmp_path) == ["checkpoint-10", "checkpoint-15", "checkpoint-5", "run.json"]
    assert note.read_bytes() == good


def test_a_checkpoint_that_lost_its_manifest_does_not_stop_the_run(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    begun(tmp_path, 5, 10, 20, keep=True)
    for step in (10, 20):
        (tmp_path / f"checkpoint-{step}" / "manifest.json").unlink()
        (tmp_path / f"checkpoint-{step}" / "convmodel_config.json").write_text("{}")
    again = RunFolder(tmp_path, SAME)
    again.begin(again.find(None))

    again.add(10, write, keep=True)
    again.finish()

    assert names(tmp_path) == ["checkpoint-10", "checkpoint-20", "checkpoint-5", "run.json"]
    assert caplog.messages[-1] == f"{tmp_path}/checkpoint-20 is damaged and no longer needed: remove it"


def test_where_everything_is_damaged_nothing_is_removed(tmp_path: Path) -> None:
    begun(tmp_path, 5)
    (tmp_path / "run.json").write_bytes(b"{")
    (tmp_path / "checkpoint-5" / "manifest.json").write_bytes(b"{")

    assert is_unfinished(tmp_path)
    for resume in (None, True):
        with pytest.raises(ConfigError, match=r"damaged \(checkpoint-5\): resume=False .* another output_dir"):
            RunFolder(tmp_path, SAME).find(resume)


def test_a_model_of_an_unknown_run_is_not_replaced_unasked(tmp_path: Path) -> None:
    begun(tmp_path)
    write(tmp_path)
    (tmp_path / "run.json").write_bytes(b"{")

    with pytest.raises(ConfigError, match=r"run\.json is damaged, .* give another output_dir"):
        RunFolder(tmp_path, SAME).find(None)
    assert RunFolder(tmp_path, SAME).find(False) is None


def test_damaged_checkpoints_do_not_push_out_good_ones(tmp_path: Path) -> None:
    begun(tmp_path, 5, 10, keep=True)
    damage_by("cut", tmp_path / "checkpoint-10")
    again = RunFolder(tmp_path, SAME, limit=1)
    again.begin(again.find(None))

    again.add(6, write, keep=True)
    assert names(tmp_path) == ["checkpoint-10", "checkpoint-6", "run.json"]
    again.add(10, write, keep=True)

    assert names(tmp_path) == ["checkpoint-10", "run.json"]
    assert RunFolder(tmp_path, SAME).find(None) == tmp_path / "checkpoint-10"


@pytest.mark.parametrize("resume", [None, True])
def test_another_run_is_refused_and_nothing_is_touched(tmp_path: Path, resume: bool | None) -> None:
    begun(tmp_path, 5)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    with pytest.raises(ConfigError, match=r"differs \(seed: 1 there, 2 here\): give the same options"):
        RunFolder(tmp_path, SAME | {"seed": 2}).find(resume)

    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_another_run_may_begin_where_nothing_would_be_lost(tmp_path: Path) -> None:
    begun(tmp_path)

    assert RunFolder(tmp_path, SAME | {"seed": 2}).find(None) is None
    write(tmp_path)
    with pytest.raises(ConfigError, match="differs"):
        RunFolder(tmp_path, SAME | {"seed": 2}).find(None)


def test_a_run_that_ended_is_not_gone_on_with(tmp_path: Path) -> None:
    begun(tmp_path, 5, keep=True).finish()

    assert not is_unfinished(tmp_path)
    assert RunFolder(tmp_path, SAME | {"seed": 2}).find(None) is None
    with pytest.raises(ConfigError, match="holds no unfinished run: leave resume out"):
        RunFolder(tmp_path, SAME).find(True)


def test_at_the_end_only_what_was_asked_for_stays(tmp_path: Path) -> None:
    run = begun(tmp_path, 5, keep=True)
    run.add(7, write, keep=False)

    run.finish()

    assert names(tmp_path) == ["checkpoint-5", "run.json"]


@pytest.mark.parametrize("keep", [True, False])
def test_only_the_newest_stay(tmp_path: Path, keep: bool) -> None:
    begun(tmp_path, 8, 9, 10, 11, keep=keep, limit=2)

    assert names(tmp_path) == ["checkpoint-10", "checkpoint-11", "run.json"]


@pytest.mark.parametrize(("limit", "kept"), [(0, [2, 4, 6]), (1, [6]), (2, [4, 6]), (9, [2, 4, 6])])
def test_temporary_checkpoints_do_not_count_against_the_limit(tmp_path: Path, limit: int, kept: list[int]) -> None:
    run = begun(tmp_path, limit=limit)
    for step in range(1, 10):
        run.add(step, write, keep=step in (2, 4, 6))

    assert names(tmp_path) == [*(f"checkpoint-{step}" for step in (*kept, 8, 9)), "run.json"]
    assert RunFolder(tmp_path, SAME).find(None) == tmp_path / "checkpoint-9"
    run.finish()
    assert names(tmp_path) == [*(f"checkpoint-{step}" for step in kept), "run.json"]


@pytest.mark.parametrize("shown", ["a checkpoint", "the end"])
def test_an_earlier_runs_checkpoints_go_when_the_new_one_has_something_to_show(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, shown: str
) -> None:
    caplog.set_level(logging.INFO)
    begun(tmp_path, 5, keep=True).finish()
    for own in ("checkpoint-7", "checkpoint-best"):
        (tmp_path / own).mkdir()
        write(tmp_path / own)

    run = begun(tmp_path)
    assert "checkpoint-5" in names(tmp_path)
    assert caplog.messages == []
    if shown == "a checkpoint":
        run.add(3, write, keep=False)
        assert names(tmp_path) == ["checkpoint-3", "checkpoint-7", "checkpoint-best", "run.json"]
    run.finish()

    assert names(tmp_path) == ["checkpoint-7", "checkpoint-best", "run.json"]
    assert caplog.messages == [f"removing {tmp_path}/checkpoint-5, which belongs to an earlier run"]


def fill_up(folder: Path) -> None:
    write(folder)
    raise OSError(28, "No space left on device")


def test_a_full_disk_leaves_the_earlier_ones_and_names_the_last(tmp_path: Path) -> None:
    run = begun(tmp_path, 5, 6, limit=2)

    with pytest.raises(SaveError) as caught:
        run.add(7, fill_up, keep=False)

    assert str(caught.value) == (
        f"{tmp_path}/checkpoint-7 cannot be written: No space left on device; choose another folder; "
        f"once that is fixed, the same options resume from {tmp_path}/checkpoint-6"
    )
    assert names(tmp_path) == ["checkpoint-5", "checkpoint-6", "run.json"]


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff", b"{}", b'{"finished": 0}'])
def test_a_note_that_cannot_be_read_is_no_run(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "run.json").write_bytes(content)

    assert not is_unfinished(tmp_path)
    assert RunFolder(tmp_path, SAME).find(None) is None


def test_a_note_says_what_the_run_is(tmp_path: Path) -> None:
    begun(tmp_path)

    note: dict[str, Any] = json.loads((tmp_path / "run.json").read_text())

    assert (note["format"], note["finished"], note["identity"]) == (1, False, SAME)


@pytest.mark.parametrize("resume", [None, True])
@pytest.mark.parametrize("file", ["model.safetensors", "manifest.json"])
def test_where_all_are_damaged_nothing_is_removed_unasked(tmp_path: Path, resume: bool | None, file: str) -> None:
    begun(tmp_path, 5, 10)
    for step in (5, 10):
        (tmp_path / f"checkpoint-{step}" / file).write_bytes(b"weightS")

    with pytest.raises(ConfigError, match=r"damaged \(checkpoint-5, checkpoint-10\): resume=False"):
        RunFolder(tmp_path, SAME).find(resume)

    assert {"checkpoint-5", "checkpoint-10"} <= set(names(tmp_path))
    begun(tmp_path, 10)  # anew
    assert names(tmp_path) == ["checkpoint-10", "run.json"]
    assert RunFolder(tmp_path, SAME).find(resume) == tmp_path / "checkpoint-10"


def test_a_line_added_to_the_readme_is_no_damage(tmp_path: Path) -> None:
    run = RunFolder(tmp_path, SAME)
    run.begin(None)

    def write_with_card(folder: Path) -> None:
        write(folder)
        (folder / "README.md").write_text("card")

    run.add(5, write_with_card, keep=True)
    (tmp_path / "checkpoint-5" / "README.md").write_text("card, and a note of mine")

    assert RunFolder(tmp_path, SAME).find(None) == tmp_path / "checkpoint-5"


def test_somebody_elses_checkpoint_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-5").mkdir()
    (tmp_path / "checkpoint-5" / "optimizer.pt").write_bytes(b"theirs")
    run = begun(tmp_path, 4)

    with pytest.raises(SaveError, match="checkpoint-5 was not saved by convmodel, and is not replaced"):
        run.add(5, write, keep=False)

    assert names(tmp_path / "checkpoint-5") == ["optimizer.pt"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="folders are locked on Linux only")
def test_two_cannot_train_into_one_folder(tmp_path: Path) -> None:
    first = RunFolder(tmp_path, SAME)
    first.begin(None)

    with pytest.raises(SaveError, match="another process is training into"):
        RunFolder(tmp_path, SAME).begin(None)
    first.close()

    RunFolder(tmp_path, SAME).begin(None)
