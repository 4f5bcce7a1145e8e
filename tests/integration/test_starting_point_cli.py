"""`convmodel fit --from-scratch`, `--tokenizer` and `--grow-vocabulary` as a user types them."""

import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from convmodel.cli.main import app
from convmodel.errors import ConfigError, ConvModelError

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
def test_a_fit_from_scratch_has_the_settings_of_its_shape_unless_given() -> None:
    suited, said = fit("--output-dir", "a")
    chosen, _ = fit("--output-dir", "b", "--learning-rate", "2e-4", "--no-packing", "--batch-size", "2")

    names = ("learning_rate", "batch_size", "packing")
    assert [suited["config"][name] for name in names] == [1e-3, 4, True]
    assert [chosen["config"].get(name, False) for name in names] == [2e-4, 2, False]
    assert "a new GPT-2: 1.9 M parameters" in said
    assert "training a new tiny model on chats.jsonl" in said


@pytest.mark.slow
def test_more_parameters_than_tokens_are_warned_of_with_what_was_not_given() -> None:
    _, said = fit("--output-dir", "a")
    assert "more parameters than tokens" in said
    assert "--valid, which keeps the checkpoint that is best on held-out conversations; --dropout 0.1; more" in said

    _, said = fit("--output-dir", "b", "--valid", "chats.jsonl", "--dropout", "0.1")
    assert "What helps: more conversations; a pretrained model to start from" in said


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
        (["chats.jsonl", "--tokenizer", "pieces"], "--tokenizer is the tokenizer of a new model: give --from-scratch"),
        (
            ["-", "--from-scratch", "tiny"],
            "the vocabulary is trained first, on the same conversations",
        ),
        (["chats.jsonl", "--from-scratch", "huge"], "there is no shape 'huge': it must be tiny, small, base"),
    ],
)
def test_what_cannot_be(arguments: list[str], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        run("fit", *arguments, "--output-dir", "m")


def test_a_new_model_can_go_without_token_types() -> None:
    fit("--output-dir", "without", "--token-types", "off")
    fit("--output-dir", "with")
    layouts = [json.loads(Path(name, "convmodel_config.json").read_text()) for name in ("without", "with")]
    assert [layout["use_token_types"] for layout in layouts] == [False, True]
    cards = [Path(name, "README.md").read_text(encoding="utf-8") for name in ("without", "with")]
    assert ["fine-tune with `convmodel fit --token-types off`" in card for card in cards] == [False, True]


@pytest.mark.slow
def test_a_model_keeps_what_it_was_trained_with() -> None:
    fit("--output-dir", "m", "--token-types", "off")
    again = ("fit", "chats.jsonl", "-m", "m", "--max-steps", "1", "--output-dir", "n")
    with pytest.raises(ConvModelError, match=r"was trained with use_token_types=False: leave .* out"):
        run(*again, "--token-types", "on")
    run(*again)
    assert json.loads(Path("n/convmodel_config.json").read_text())["use_token_types"] is False
    with pytest.raises(ConfigError, match="--token-types maybe: it must be on or off"):
        run(*again, "--token-types", "maybe")
