"""`convmodel export`: from a model to files that other programs run, and back."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from export_models import MODELS, make_model

from convmodel import Conversation, ConversationModel

pytestmark = pytest.mark.loopback

QUICK = ("llama, separator", "gemma3", "gpt2")
NOT_READ = ("llama 3", "smollm3", "phi3, longrope")  # by transformers
MODEL = "chatml"
CONTEXTS = (["Hello <|im_end|> there"], ["How are you?", "I'm fine, thanks!", "Good 😀"], ["12345 日本"])


@pytest.mark.parametrize("name", [pytest.param(n, marks=[] if n in QUICK else pytest.mark.slow) for n in MODELS])
def test_every_architecture_is_equal_in_llama_cpp_and_comes_back(name: str, tmp_path: Path) -> None:
    model = make_model(name)
    exported = model.export(tmp_path / "x.gguf", weights="f32", data=[Conversation(["Hello", "Hi, how are you?"])])
    assert exported.proof is not None
    assert (exported.proof.tokens > 200, exported.proof.ties) == (True, 0)
    if name in NOT_READ:
        return
    again = ConversationModel.from_pretrained(tmp_path / "x.gguf")
    for context in CONTEXTS:
        assert again.tokenizer(context)["input_ids"] == model.tokenizer(context)["input_ids"]
        options = {"max_new_tokens": 12, "do_sample": False}
        here, there = (each.generate(context, **options).responses[0] for each in (model, again))
        assert there.lstrip() == here.lstrip()  # some decoders leave out a first space


@pytest.fixture(autouse=True)
def _model_folder(run: Callable[..., int]) -> None:
    make_model("llama").save_pretrained(MODEL)


@pytest.mark.slow
def test_a_gguf_file_is_written_proven_and_used(run: Callable[..., int], capfd: pytest.CaptureFixture[str]) -> None:
    assert run("export", MODEL, "-o", "bot.gguf", "--weights", "q8_0", "--data", "test.jsonl") == 0
    shown = capfd.readouterr().err
    for line in (
        "have the same ids in llama.cpp, 3 of them with control tokens spelled out",
        "ends: a response stops at the token that ends one",
        "Use it:  llama-cli -m bot.gguf",
    ):
        assert line in shown
    assert json.loads(Path("bot.proof.json").read_text())["weights"] == "q8_0"
    assert run("generate", "-m", "bot.gguf", "Hello", "--max-new-tokens", "3") == 0
    assert run("export", MODEL, "-o", "bot.gguf") == 1
    assert "bot.gguf exists: give another name, or replace it with --overwrite" in capfd.readouterr().err


@pytest.mark.slow
def test_ollama_and_a_page(run: Callable[..., int], capfd: pytest.CaptureFixture[str]) -> None:
    arguments = ("--to", "ollama", "-o", "bot", "--weights", "f32", "--data", "test.jsonl", "--json")
    assert run("export", MODEL, *arguments) == 0
    result = json.loads(capfd.readouterr().out.splitlines()[-1])
    assert result["path"] == "bot"
    assert result["proof"]["ollama_prompts"] > 8
    assert run("export", MODEL, "-o", "bot.html") == 1
    assert "convmodel: " in capfd.readouterr().err
    assert run("export", "builtin:chitchat", "-o", "bot.html") == 0
    assert "Use it:  open bot.html in a browser" in capfd.readouterr().err


def test_an_unproven_file_says_so(run: Callable[..., int], capfd: pytest.CaptureFixture[str]) -> None:
    assert run("export", MODEL, "-o", "bot.gguf", "--unproven") == 0
    assert "the file was not compared with the model; its metadata say so" in capfd.readouterr().err
    assert not Path("bot.proof.json").exists()
