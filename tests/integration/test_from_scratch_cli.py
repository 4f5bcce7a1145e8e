"""`convmodel tokenizer train` and `convmodel fit --from-scratch`, as a user types them, in three languages."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from convmodel import ConversationModel
from convmodel.cli.main import app
from convmodel.errors import ConfigError, ConvModelError, SaveError
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


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_a_vocabulary_is_learned_and_a_model_over_it(kind: str) -> None:
    shown, said = run(
        "tokenizer", "train", "chats.jsonl", "--vocab-size", "400", "--kind", kind, "--output-dir", "pieces"
    )
    tokenizer = ConversationTokenizer.from_pretrained("pieces")

    assert len(tokenizer) <= 400
    assert "turns learned from 48" in " ".join(shown.split())
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

    assert "rows that could not be used 1" in " ".join(shown.split())


def test_only_a_vocabulary_is_replaced_and_only_if_asked() -> None:
    run("tokenizer", "train", "chats.jsonl")
    with pytest.raises(SaveError, match="tokenizer already holds a vocabulary: give another --output-dir, or --overw"):
        run("tokenizer", "train", "chats.jsonl")
    run("tokenizer", "train", "chats.jsonl", "--overwrite", "--vocab-size", "280")
    assert len(ConversationTokenizer.from_pretrained("tokenizer")) == 280

    fit("--output-dir", "m")
    before = sorted(path.name for path in Path("m").iterdir())
    with pytest.raises(SaveError, match="m holds a model: give another --output-dir"):
        run("tokenizer", "train", "chats.jsonl", "--output-dir", "m", "--overwrite")
    assert sorted(path.name for path in Path("m").iterdir()) == before


def test_a_fit_from_scratch_has_the_settings_of_its_shape_unless_given() -> None:
    suited, said = fit("--output-dir", "a")
    chosen, _ = fit("--output-dir", "b", "--learning-rate", "2e-4", "--no-packing", "--batch-size", "2")

    names = ("learning_rate", "batch_size", "packing")
    assert [suited["config"][name] for name in names] == [1e-3, 4, True]
    assert [chosen["config"].get(name, False) for name in names] == [2e-4, 2, False]
    assert "a new GPT-2: 1.9 M parameters" in said
    assert "training a new tiny model on chats.jsonl" in said


def test_more_parameters_than_tokens_are_warned_of_with_what_was_not_given() -> None:
    _, said = fit("--output-dir", "a")
    assert "more parameters than tokens" in said
    assert "--valid, which keeps the model that is best on other conversations; --dropout 0.1; more conv" in said

    _, said = fit("--output-dir", "b", "--valid", "chats.jsonl", "--dropout", "0.1")
    assert "What helps: more conversations; a trained model to start from" in said


def test_the_same_command_makes_the_same_weights() -> None:
    for folder in ("a", "b"):
        fit("--output-dir", folder, "--seed", "7")

    assert Path("a/model.safetensors").read_bytes() == Path("b/model.safetensors").read_bytes()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "gpt2"], "--model starts from a trained model and --from-scratch from a new one: give one"),
        (["--tokenizer", "./nowhere"], "there is no folder ./nowhere"),
    ],
)
def test_what_cannot_go_together(arguments: list[str], message: str) -> None:
    with pytest.raises(ConvModelError, match=message):
        fit(*arguments, "--output-dir", "m")
    assert not Path("m").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["chats.jsonl", "--tokenizer", "pieces"], "--tokenizer is the vocabulary of a new model: give --from-scratch"),
        (
            ["-", "--from-scratch", "tiny"],
            "a vocabulary is learned first, from the same conversations",
        ),
        (["chats.jsonl", "--from-scratch", "huge"], "there is no shape 'huge': it must be tiny, small, base"),
    ],
)
def test_what_cannot_be(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run("fit", *arguments, "--output-dir", "m")
