"""A GGUF file as the model of the commands, as Ollama, LM Studio or a package leave it."""

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from chat_templates import CHATML
from gguf_files import write_gguf

Run = Callable[..., int]


@pytest.fixture
def file(run: Run, smollm2_folder: Path) -> str:
    """A file in the current folder, named as one of Ollama's."""
    extra = {"tokenizer.chat_template": CHATML}
    return write_gguf(Path("sha256-0123456789"), smollm2_folder, kind="Q8_0", extra=extra).name


@pytest.mark.slow
def test_the_commands_take_the_file_and_fit_saves_an_ordinary_model(
    run: Run, file: str, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    short = ("--max-new-tokens", "3")
    assert run("generate", "-m", file, "Hello", *short) == 0
    assert f"{file}: the Q8_0 weights (" in caplog.text  # which the command line prints
    assert run("evaluate", file, "--data", "test.jsonl", "--max-length", "96") == 0
    assert "perplexity" in capfd.readouterr().out
    assert run("doctor", file, "train.jsonl", "--no-estimate", "--max-length", "96") in (0, 1)
    assert run("doctor", file, "--json") == 0
    assert json.loads(capfd.readouterr().out.splitlines()[-1])["layout"]["token layout"].startswith("template")

    settings = ("--max-steps", "2", "--max-length", "96", "--output-dir", "new")
    assert run("fit", "train.jsonl", "-m", file, *settings) == 0
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= {path.name for path in Path("new").iterdir()}
    Path(file).unlink()
    assert run("generate", "-m", "new", "Hello", *short) == 0
    assert "template" in (Path("new") / "README.md").read_text(encoding="utf-8")


def test_adapters_of_a_file_are_used_with_it(run: Run, file: str, capfd: pytest.CaptureFixture[str]) -> None:
    settings = ("--max-steps", "2", "--max-length", "96", "--lora", "--output-dir", "adapters")
    assert run("fit", "train.jsonl", "-m", file, *settings) == 0
    config = json.loads(Path("adapters/adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == str(Path(file).resolve())
    assert run("generate", "-m", "adapters", "Hello", "--max-new-tokens", "3") == 0
    Path(file).unlink()
    assert run("generate", "-m", "adapters", "Hello") == 1
    assert f"there is no folder {Path.cwd() / file}" in " ".join(capfd.readouterr().err.split())


def test_a_file_that_is_cut_off_is_one_sentence(run: Run, file: str, capfd: pytest.CaptureFixture[str]) -> None:
    Path(file).write_bytes(Path(file).read_bytes()[:-1000])
    for command in (["chat", "-m", file], ["serve", file], ["evaluate", file, "--data", "test.jsonl"]):
        assert run(*command) == 1
        assert f"{file} is cut off or damaged: download it again" in " ".join(capfd.readouterr().err.split())
