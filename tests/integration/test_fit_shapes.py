"""`convmodel fit` on every shape that is recognised, from every kind of file."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet
import pytest
from typer.testing import CliRunner

from convmodel.cli.main import app
from convmodel.data.reading.shapes import SHAPES

EXAMPLES: dict[str, Any] = {
    "turns": {"turns": ["Hi", "Hello", "Well?"], "speakers": ["Ann", "Bob", "Ann"]},
    "messages": {"messages": [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "Hi"}]},
    "conversation": {"dialog": ["Hi", "Hello"], "act": [1, 2], "emotion": [0, 0]},
    "sharegpt": {"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
    "personachat": {"personality": ["i like tea ."], "history": ["hi"], "candidates": ["bye", "hello"], "conv_id": 1},
    "judgements": {"context": ["Hi"], "chosen": "Hello", "rejected": "Go away"},
    "pairs": {"prompt": "Hi", "response": "Hello"},
    "rows": {"conversation_id": 1, "speaker": "Ann", "text": "Hi"},
}
PAIR = EXAMPLES["pairs"]


def fit(data: Path | str, unigram_folder: Path, *options: str, given: bytes | None = None) -> dict[str, Any]:
    arguments = ["fit", str(data), "--model", str(unigram_folder), "--max-steps", "1", "--output-dir", "out", "--json"]
    result = CliRunner().invoke(app, [*arguments, *options], input=given, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    found: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return found


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_every_shape_has_an_example() -> None:
    assert EXAMPLES.keys() == SHAPES.keys()


@pytest.mark.parametrize("shape", SHAPES)
def test_every_shape_is_learned(shape: str, unigram_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text(json.dumps(EXAMPLES[shape]) + "\n")

    assert fit(path, unigram_folder, "--format", shape)["steps"] == 1


def _csv(path: Path) -> None:
    path.write_text("prompt,response\nHi,Hello\n")


def _parquet(path: Path) -> None:
    pyarrow.parquet.write_table(pa.table({key: [value] for key, value in PAIR.items()}), path)


def _folder(path: Path) -> None:
    path.mkdir()
    (path / "a.json").write_text(json.dumps([PAIR, PAIR]))
    (path / "b.tsv").write_text("prompt\tresponse\nHi\tHello\n")


FILES: dict[str, Callable[[Path], Any]] = {
    "data.json": lambda path: path.write_text(json.dumps([PAIR])),
    "data.jsonl.gz": lambda path: path.write_bytes(gzip.compress(json.dumps(PAIR).encode())),
    "data.yml": lambda path: path.write_text("conversations:\n- [Hi, Hello]\n"),
    "data.csv": _csv,
    "data.parquet": _parquet,
    "data": _folder,
}


@pytest.mark.parametrize("name", FILES)
def test_every_kind_of_file_is_learned(name: str, unigram_folder: Path, tmp_path: Path) -> None:
    FILES[name](tmp_path / name)

    assert fit(name, unigram_folder)["windows"] == (3 if name == "data" else 1)


def test_standard_input_is_learned(unigram_folder: Path) -> None:
    assert fit("-", unigram_folder, given=b'["Hi", "Hello"]\n["Yes", "No"]\n')["windows"] == 2


def test_bad_lines_are_skipped_on_request_and_told(unigram_folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    path.write_text('["Hi", "Hello"]\n["Yes"\n')

    found = fit(path, unigram_folder, "--on-error", "skip")

    assert found["windows"] == 1
    assert found["left_out"] == (
        f"1 could not be used, the first because of: {path}:2:7: not JSON (Expecting ',' delimiter): write one "
        'conversation a line, each a list of strings, or {"turns": [...]} with "speakers", "pinned", "weights", "id" '
        'if you like, or {"messages": [{"role": ..., "content": ...}, ...]}'
    )
