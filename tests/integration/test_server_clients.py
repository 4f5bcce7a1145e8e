"""The checks of `make client-check` for pydantic-ai, the one of the clients that is a development dependency."""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from scripted import enliven
from serving import Serving, serving
from transformers import GPT2Config

from convmodel import ConversationModel, ConversationTokenizer

CHECKS = Path(__file__).parents[1] / "clients"
KEY = "a key of the tests"


@pytest.fixture(scope="module")
def model(gpt2_folder: Path) -> ConversationModel:
    """A tiny model with room for the descriptions of tools."""
    tokenizer = ConversationTokenizer.from_pretrained(gpt2_folder)
    sizes = {"n_positions": 1024, "n_embd": 32, "n_layer": 2, "n_head": 2}
    model = ConversationModel.from_config(GPT2Config(vocab_size=len(tokenizer.hf_tokenizer), **sizes), tokenizer)
    enliven(model.hf_model)
    return model


@pytest.fixture(scope="module")
def servers(model: ConversationModel) -> Iterator[tuple[Serving, Serving]]:
    """One that is open, and one that needs a key and lets one request wait."""
    models = {"chitchat": model}
    with (
        serving(models, system_messages=True) as server,
        serving(models, system_messages=True, api_keys=(KEY,), max_queue=1) as locked,
    ):
        yield server, locked


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.loopback
def test_pydantic_ai(servers: tuple[Serving, Serving]) -> None:
    server, locked = servers
    command = [sys.executable, CHECKS / "with_pydantic_ai.py", f"{server.url}/v1", f"{locked.url}/v1", KEY]
    result = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
    assert result.returncode == 0, result.stderr
    results = [json.loads(line) for line in result.stdout.splitlines()]
    assert {each["check"]: each["problem"] for each in results if each["problem"]} == {}
    assert len(results) > 8
