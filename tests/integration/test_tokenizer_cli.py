"""`convmodel tokenizer train` as a user types it, in three languages."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from convmodel import ConversationModel
from convmodel.cli.main import app
from convmodel.errors import SaveError
from convmodel.layout.tokenizer import ConversationTokenizer

TALKS = [["Guten Morgen", "Guten Morgen! Wie geht es dir?"], ["おはよう", "おはようございます"], ["Hi", "Hello there"]]


@pytest.fixture(autouse=True)
def _in_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    lines = [json.dumps(talk, ensure_ascii=False) for talk in TALKS * 8]
    Path("chats.jsonl").write_text("\n".join(lines), encoding="utf-8")


def run(*arguments: str) -> tuple[str, str]:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.stdout, " ".join(result.stderr.split())


def fit(*arguments: str) -> tuple[dict[str, Any], str]:
    shown, said = run("fit", "chats.jsonl", "--from-scratch", "tiny", "--max-steps", "2", "--json", *arguments)
    return json.loads(shown), said


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_a_vocabulary_is_learned_and_a_model_over_it(kind: str) -> None:
    shown, said = run(
        "tokenizer", "train", "chats.jsonl", "--vocab-size", "400", "--kind", kind, "--output-dir", "pieces"
    )
    tokenizer = ConversationTokenizer.from_pretrained("pieces")

    assert len(tokenizer) <= 400
    assert "training turns 48" in " ".join(shown.split())
    assert "fit chats.jsonl --from-scratch small --tokenizer pieces" in said
    for turn in (turn for talk in TALKS for turn in talk):
        assert tokenizer.decode(tokenizer.encode(turn)) == turn

    fit("--tokenizer", "pieces", "--output-dir", "m")
    model = ConversationModel.from_pretrained("m")
    assert model.tokenizer.hf_tokenizer.get_vocab() == tokenizer.hf_tokenizer.get_vocab()
    assert model.generate(["おはよう"], max_new_tokens=4).responses


def test_what_was_measured_for_machines() -> None:
    shown, _ = run("tokenizer", "train", "chats.jsonl", "--vocab-size", "300", "--json")

    measured = json.loads(shown)
    turns = [turn for talk in TALKS * 8 for turn in talk]
    tokenizer = ConversationTokenizer.from_pretrained("tokenizer")
    tokens = sum(len(tokenizer.encode(turn)) for turn in turns)
    assert measured["text_bytes"] == sum(len(turn.encode()) for turn in turns)
    assert measured["bytes_per_token"] == pytest.approx(measured["text_bytes"] / tokens)
    assert (measured["entries"], measured["kind"], measured["turns"], measured["skipped"]) == (300, "bpe", 48, 0)


def test_rows_that_could_not_be_used_are_counted() -> None:
    with Path("chats.jsonl").open("a") as file:
        file.write('\n["Hi", 7]\n')

    shown, _ = run("tokenizer", "train", "chats.jsonl", "--on-error", "skip")

    assert "skipped rows 1" in " ".join(shown.split())


def test_only_a_vocabulary_is_replaced_and_only_if_asked() -> None:
    run("tokenizer", "train", "chats.jsonl")
    with pytest.raises(SaveError, match="tokenizer already holds a tokenizer: give another --output-dir, or --overw"):
        run("tokenizer", "train", "chats.jsonl")
    run("tokenizer", "train", "chats.jsonl", "--overwrite", "--vocab-size", "280")
    assert len(ConversationTokenizer.from_pretrained("tokenizer")) == 280

    fit("--output-dir", "m")
    before = sorted(path.name for path in Path("m").iterdir())
    with pytest.raises(SaveError, match="m holds a model: give another --output-dir"):
        run("tokenizer", "train", "chats.jsonl", "--output-dir", "m", "--overwrite")
    assert sorted(path.name for path in Path("m").iterdir()) == before
