"""The command that imports a client's files, and what is kept of its result."""

import json
import os
from pathlib import Path

import pytest
from typer.main import get_command

from convmodel.cli.main import app
from convmodel.data.importing.summary import ImportSummary
from convmodel.server.fine_tuning import import_command
from convmodel.server.fine_tuning.preparation_store import PreparationSpec

SPEC = PreparationSpec(["file-1", "file-2"], ["--me", "chat.txt"], "tiny", "/models/tiny")


def test_the_command_is_one_of_convmodel() -> None:
    spec = PreparationSpec(
        ["file-1"], ["--json"], "tiny", "/m", me="-Ann", merge_others=True, redact=True, on_error="skip"
    )
    line = import_command.import_command(["convmodel"], spec, alone=True)
    command = get_command(app).commands["import"]  # type: ignore[attr-defined]
    given = command.make_context("import", [*line[2:]]).params
    assert (given["sources"], given["output"], given["me"]) == (["--json"], "../data", "-Ann")
    assert (given["merge_others"], given["redact"], given["on_error"], given["as_json"]) == (True, True, "skip", True)
    assert given["shares"] == "1,0,0"
    given = command.make_context("import", import_command.import_command([], SPEC, alone=False)[1:]).params
    assert (given["sources"], given["me"], given["shares"]) == (["--me", "chat.txt"], None, "0.9,0.1,0")


def test_files_are_laid_out_under_their_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [tmp_path / "file-1.jsonl", tmp_path / "file-2.jsonl"]
    for number, path in enumerate(paths):
        path.write_text(str(number))
    for _ in range(2):  # again, over what an earlier import left
        import_command.lay_out(tmp_path / "prep", paths, ["chat.txt", "chat.txt"])
        (tmp_path / "prep/data").mkdir()
        (tmp_path / "prep/data/train.jsonl").write_text("{}")
    inside = tmp_path / "prep/input"
    assert [(inside / name).read_text() for name in ("chat.txt", "2/chat.txt")] == ["0", "1"]
    assert import_command.made_files(tmp_path / "prep") == {"train": tmp_path / "prep/data/train.jsonl"}

    def no_links(source: Path, target: Path) -> None:
        raise PermissionError("no links here")

    monkeypatch.setattr(os, "link", no_links)
    import_command.lay_out(tmp_path / "prep", paths, ["chat.txt", "b.txt"])
    assert (inside / "b.txt").read_text() == "1"
    assert import_command.made_files(tmp_path / "prep") == {}
    import_command.clear(tmp_path / "prep")
    assert not [*(tmp_path / "prep").iterdir()]
    with pytest.raises(FileNotFoundError):
        import_command.lay_out(tmp_path / "prep", [tmp_path / "none"], ["chat.txt"])


def test_no_upload_is_written_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two names may be one to a file system."""
    paths = [tmp_path / "file-1.jsonl", tmp_path / "file-2.jsonl"]
    for number, path in enumerate(paths):
        path.write_text(str(number))
    monkeypatch.setattr(import_command, "disk_names", lambda names: ["chat.txt"] * len(names))
    with pytest.raises(FileExistsError):
        import_command.lay_out(tmp_path / "prep", paths, ["chat.txt", "chat.txt"])
    assert [path.read_text() for path in paths] == ["0", "1"]


@pytest.mark.parametrize("text", ["", "{", "[]", "1"])
def test_half_a_result_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "result.json").write_text(text)
    assert import_command.read_result(tmp_path / "result.json") is None
    assert import_command.read_result(tmp_path / "none") is None
    assert not import_command.is_too_large(tmp_path / "none")


def test_a_large_result_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "result.json"
    path.write_text('{"a": 1}')
    assert import_command.read_result(path) == {"a": 1}
    monkeypatch.setattr(import_command, "LARGEST_RESULT", 3)
    assert import_command.read_result(path) is None
    assert import_command.is_too_large(path)


def test_a_long_summary_is_shortened() -> None:
    summary = ImportSummary()
    for number in range(1000):
        summary.speaker_turns[f"Speaker {number}"] = number
        summary.first_words[f"Speaker {number}"] = "Hello"
    summary.notes = ["a" * 5000]
    summary.carried.places["weights"] = [f"a.jsonl:{number}" for number in range(1000)]
    result = json.loads(json.dumps(summary.to_dict()))
    speakers = import_command.speakers_of(result)
    assert (len(speakers), speakers[0]) == (1000, {"name": "Speaker 999", "turns": 999, "first_words": "Hello"})
    short = import_command.shortened(result)
    assert short.keys() == result.keys()
    assert len(short["speaker_turns"]) == import_command.SHOWN
    assert short["speaker_turns"]["Speaker 999"] == 999
    assert len(short["carried"]["weights"]["rows"]) == import_command.SHOWN
    assert [len(note) for note in short["notes"]] == [2000]
