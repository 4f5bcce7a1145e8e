"""Output of the commands: which process prints, what to type next, and which folders are safe to write."""

import sys
from pathlib import Path

import pytest

from convmodel.cli.console import MODEL_FILES, _rank, check_output_dir, check_output_file, print_json
from convmodel.errors import SaveError
from convmodel.files.atomic import _make_stage


def test_the_next_command_is_one_that_the_reader_can_type(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from convmodel.cli.console import program

    started = tmp_path / ".venv" / "bin" / "convmodel"
    started.parent.mkdir(parents=True)
    started.touch()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", [str(started)])

    monkeypatch.setenv("PATH", "")
    not_found = program()
    started.chmod(0o755)
    monkeypatch.setenv("PATH", str(started.parent))

    assert not_found == ".venv/bin/convmodel"
    assert program() == "convmodel"


@pytest.mark.parametrize(
    ("rank", "world", "speaks"),
    [("1", None, True), ("1", "1", True), ("1", "2", False), ("0", "2", True), ("first", "2", True), ("1", "", True)],
)
def test_only_processes_that_train_together_leave_the_word_to_the_first(
    rank: str, world: str | None, speaks: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", rank)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    if world is not None:
        monkeypatch.setenv("WORLD_SIZE", world)

    assert (_rank() == 0) == speaks


def test_json_has_no_nan(capsys: pytest.CaptureFixture[str]) -> None:
    print_json({"rate": float("nan"), "name": "Zoë"})

    assert capsys.readouterr().out == '{"rate": null, "name": "Zoë"}\n'


def test_an_output_folder_is_new_or_empty_or_replaced_on_demand(tmp_path: Path) -> None:
    check_output_dir(tmp_path / "new")
    check_output_dir(tmp_path)
    for number, file in enumerate(MODEL_FILES):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / file).touch()
        with pytest.raises(SaveError, match="already holds a model: give another --output-dir, or --overwrite"):
            check_output_dir(folder)
        check_output_dir(folder, overwrite=True)


def test_an_output_folder_may_hold_what_a_process_killed_at_its_start_left(tmp_path: Path) -> None:
    stage = _make_stage(tmp_path / "model")  # as `fit` was about to write its first file
    check_output_dir(tmp_path / "model")
    (tmp_path / "model" / "thesis.tex").touch()

    with pytest.raises(SaveError, match="holds something else"):
        check_output_dir(tmp_path / "model")
    assert stage.exists()


def test_an_output_folder_with_anything_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").touch()

    with pytest.raises(SaveError, match="holds something else"):
        check_output_dir(tmp_path, overwrite=True)
    with pytest.raises(SaveError, match="it is a file"):
        check_output_dir(tmp_path / "thesis.tex", overwrite=True)


def test_an_output_file_needs_an_existing_folder(tmp_path: Path) -> None:
    check_output_file(tmp_path / "report.html")
    for path in (tmp_path, tmp_path / "missing" / "report.html"):
        with pytest.raises(SaveError, match="give a file in a folder that exists"):
            check_output_file(path)
