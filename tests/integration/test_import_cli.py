"""`convmodel import` as a user types it."""

import json
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from convmodel.cli.import_ import _free_folder
from convmodel.cli.main import app
from convmodel.data.reading.reader import read_conversations
from convmodel.errors import ConfigError, MissingExtraError, SaveError

CHAT = "".join(
    f"{1 + day:02}/02/2024, 18:0{minute} - {who}: {text} {day}\n"
    for day in range(28)
    for minute, who, text in [(1, "Ann", "Did the post come"), (2, "Bob", "Yes, letter number"), (3, "Ann", "Fine")]
)


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("WhatsApp Chat with Bob.txt").write_text(CHAT)


def run(*arguments: str) -> tuple[str, str]:
    result = CliRunner().invoke(
        app, ["import", "WhatsApp Chat with Bob.txt", "--near", "1", *arguments], catch_exceptions=False
    )
    assert result.exit_code == 0, result.output
    return result.stdout, result.stderr


def test_a_table_says_what_came_in_and_what_went_out() -> None:
    shown, said = run("--me", "Bob", "--redact")

    numbers = {line.rsplit(None, 1)[0].strip(): line.split()[-1] for line in shown.splitlines() if line.split()}
    assert numbers["messages and rows read"] == "84"
    assert numbers["conversations"] == "28"
    assert int(numbers["train.jsonl"]) + int(numbers["valid.jsonl"]) + int(numbers["test.jsonl"]) == 28
    assert "dates read as day/month/year" in said
    assert "fit data/train.jsonl --valid data/valid.jsonl --model builtin:chitchat --loss-on assistant" in said
    assert {one.turn_speakers for one in read_conversations("data/train.jsonl")} == {("user", "assistant", "user")}


def test_without_datasketch_exact_duplicates_are_dropped_and_a_line_reports_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasketch", None)
    talk = ["Did you see the river in the town this morning", "No, I was at home with a good book"]
    talks = [[*talk, str(number)] for number in (*range(20), 7)]
    Path("talks.jsonl").write_text("".join(f"{json.dumps(turns)}\n" for turns in talks))

    result = CliRunner().invoke(app, ["import", "talks.jsonl", "--json"], catch_exceptions=False)
    account = json.loads(result.stdout)
    assert account["dropped"] == {"exact duplicate": 1}
    assert sum(account["written"].values()) == 20
    [note] = [note for note in account["notes"] if "near-duplicates" in note]
    assert note.startswith("near-duplicates were not looked for, only exact ones: ")
    assert "pip install" in note
    with pytest.raises(MissingExtraError, match="finding near-duplicates needs datasketch"):
        CliRunner().invoke(app, ["import", "talks.jsonl", "--near", "0.8", "-o", "near"], catch_exceptions=False)
    assert not Path("near").exists()


def test_by_default_near_duplicates_are_dropped() -> None:
    talks = [["Did you see the river in the town this morning " * 3, f"No, I was at home {n}"] for n in (1, 2)]
    talks += [[f"Is number {number} there", f"It is {number}"] for number in range(20)]
    Path("talks.jsonl").write_text("".join(f"{json.dumps(turns)}\n" for turns in talks))

    result = CliRunner().invoke(app, ["import", "talks.jsonl", "--json"], catch_exceptions=False)
    account = json.loads(result.stdout)
    assert account["dropped"] == {"near-duplicate": 1}
    assert not any("near-duplicates" in note for note in account["notes"])


def test_the_account_for_machines() -> None:
    shown, _ = run("--json", "--split", "1,0,0", "--gap", "2d")

    account = json.loads(shown)
    assert (account["formats"], account["entries"], account["conversations"]) == ({"whatsapp": 1}, 84, 1)
    assert account["written"] == {"train.jsonl": 1}
    assert account["speakers"] == {"Ann": 56, "Bob": 28}


def test_openais_files_carry_over_with_a_line_for_each_kind_of_content() -> None:
    call = {"role": "assistant", "tool_calls": [{"id": "c1", "type": "function", "function": {"name": "f"}}]}
    rows: list[dict[str, object]] = [
        {"messages": [{"role": "user", "content": f"Is {n} there?"}, {"role": "assistant", "content": f"It is {n}"}]}
        for n in range(20)
    ]
    for n in (4, 9):
        rows[n]["messages"][1]["weight"] = 0  # type: ignore[index]
    rows.insert(12, {"messages": [{"role": "user", "content": "Is it warm?"}, call], "tools": [{"type": "function"}]})
    Path("openai.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))

    result = CliRunner().invoke(app, ["import", "openai.jsonl", "--near", "1"], catch_exceptions=False)
    assert "dropped: no response before the first tool call      1" in result.stdout
    assert "- plain text in 18 of 21 rows of messages: kept\n" in result.stderr
    assert "- weights in 2 rows (first: openai.jsonl:5): kept; 0 leaves the turn out of the loss\n" in result.stderr
    assert "- tool calls in 1 row (first: openai.jsonl:13): the conversation ends" in result.stderr
    assert "- definitions of tools in 1 row (first: openai.jsonl:13): left out" in result.stderr
    assert "fit data/train.jsonl --valid data/valid.jsonl --model builtin:chitchat --loss-on assistant" in result.stderr
    read = [one for name in ("train", "valid", "test") for one in read_conversations(f"data/{name}.jsonl")]
    assert len(read) == 20
    assert sum(one.turn_weights == (1, 0) for one in read) == 2

    result = CliRunner().invoke(app, ["import", "openai.jsonl", "-o", "more", "--json"], catch_exceptions=False)
    carried = json.loads(result.stdout)["carried"]
    assert carried["weights"]["rows"] == ["openai.jsonl:5", "openai.jsonl:10"]
    assert carried["tool calls"]["rows"] == ["openai.jsonl:13"]


def test_the_next_commands_can_be_typed_as_they_are() -> None:
    _, said = run("--output", "my data")

    assert "fit 'my data/train.jsonl' --valid 'my data/valid.jsonl'" in said


@pytest.mark.parametrize(
    ("folders", "model", "flag"),
    [
        ([], "builtin:chitchat", " --learning-rate 1e-3 --output-dir bob"),  # nothing is in the cache of the tests
        (["gpt2"], "gpt2", " --output-dir bob"),
        (["bob"], "builtin:chitchat", " --learning-rate 1e-3 --output-dir bob-2"),
        (["gpt2", "bob", "bob-2"], "gpt2", " --output-dir bob-3"),
    ],
)
def test_the_next_commands_work_here(folders: list[str], model: str, flag: str) -> None:
    for folder in folders:
        Path(folder).mkdir()

    _, said = run("--me", "Bob")

    files = "data/train.jsonl --valid data/valid.jsonl"
    assert f"doctor {model} {files} --loss-on assistant --no-estimate\n" in said
    assert f"fit {files} --model {model} --loss-on assistant{flag}\n" in said


def test_the_next_commands_are_those_of_the_tutorial() -> None:
    tutorial = Path(__file__).parents[2] / "docs" / "quickstart.md"

    _, said = run("--me", "Bob", "--output", "chat")

    proposed = [line.split("convmodel ", 1)[1] for line in said.splitlines() if line.startswith(("Check", "Train"))]
    assert len(proposed) == 2
    assert all(f"\nconvmodel {line}\n" in tutorial.read_text(encoding="utf-8") for line in proposed), proposed


def test_the_next_commands_train_on_all_turns_if_nobody_is_named() -> None:
    _, said = run("--split", "1,0,0")

    assert "doctor builtin:chitchat data/train.jsonl --no-estimate\n" in said
    assert "fit data/train.jsonl --model builtin:chitchat --learning-rate 1e-3 --output-dir model\n" in said


def test_shares_that_are_large_enough_are_proposed() -> None:
    _, said = run("--split", "0.5,0.5,0")
    assert "valid has 14 conversations: you can train, but comparing models needs at least 20; import" in said
    assert "--split" not in said  # train would have less than half

    Path("WhatsApp Chat with Bob.txt").write_text(CHAT + CHAT.replace("/02/", "/03/").replace("Fine", "Good"))
    _, said = run("--overwrite", "--split", "0.9,0.1,0")
    assert "- or import again with --overwrite --split 0.64,0.36,0, which gives each at least 20\n" in said
    _, said = run("--overwrite", "--split", "0.64,0.36,0")
    assert "comparing models" not in said


def test_an_earlier_import_is_kept_unless_told_otherwise() -> None:
    run()
    with pytest.raises(SaveError, match="data already holds an import: give another --output, or --overwrite"):
        run()
    note = (
        "test.jsonl may now hold conversations that an earlier model was trained on: train again before you evaluate\n"
    )
    _, said = run("--overwrite", "--split", "0.5,0.2,0.3")
    assert note in said
    _, said = run("--overwrite", "--split", "1,0,0")
    assert note not in said  # there is no test.jsonl

    assert [path.name for path in Path("data").iterdir()] == ["train.jsonl"]


@pytest.mark.parametrize(
    ("option", "value", "message"),
    [
        ("--split", "much", "split is 'much': write three fractions, such as 0.9,0.05,0.05"),
        ("--gap", "long", "gap is 'long': write a number and s, m, h or d"),
        ("--format", "icq", "there is no format icq"),
        ("--on-error", "panic", "on_error is 'panic'"),
        ("--split-by", "weather", "by is 'weather'"),
    ],
)
def test_bad_options_are_named_with_the_cure(option: str, value: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run(option, value)


def test_the_proposed_folder_is_new_and_named_after_whom_the_model_imitates(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert [_free_folder(name) for name in ("Bob Jones", "太郎", "")] == ["bob", "model", "model"]
    (tmp_path / "bob").mkdir()
    (tmp_path / "bob-2").mkdir()
    assert _free_folder("Bob") == "bob-3"
