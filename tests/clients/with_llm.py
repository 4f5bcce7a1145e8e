"""The command `llm`, with the file of models that docs/clients.md shows."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from checking import KEY, LOCKED_URL, LONG, URL, check, main

MODELS = Path(__file__).parents[2] / "examples/clients/extra-openai-models.yaml"
folder = tempfile.TemporaryDirectory()


def write_models(url: str, more: str = "") -> None:
    text = MODELS.read_text(encoding="utf-8").replace("http://127.0.0.1:8000/v1", url)
    Path(folder.name, MODELS.name).write_text(text + more, encoding="utf-8")


def llm(*arguments: str, fails: bool = False) -> str:
    """Runs the command and returns its output, or its error."""
    result = subprocess.run(
        [sys.executable, "-m", "llm", *arguments],
        env={**os.environ, "LLM_USER_PATH": folder.name},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert (result.returncode != 0) == fails, result.stdout + result.stderr
    return result.stderr if fails else result.stdout


@check
def chat() -> None:
    llm("-m", "chitchat", "Hello")
    llm("-c", "And you?")
    llm("-m", "chitchat", "--no-stream", "-s", "Be kind.", "Hello")
    logged = json.loads(llm("logs", "-n", "1", "--json"))
    assert logged[0]["input_tokens"] > 0


@check
def options() -> None:
    settings = ("-o", "seed", "7", "-o", "max_tokens", "8", "-o", "stop", "zq", "-o", "top_p", "0.9")
    assert llm("-m", "chitchat", *settings, "Hello") == llm("-m", "chitchat", *settings, "Hello")


@check
def schemas() -> None:
    schema = {"type": "object", "properties": {"age": {"type": "integer"}, "dog": {"type": "boolean"}}}
    schema |= {"required": ["age", "dog"], "additionalProperties": False}
    for stream in ((), ("--no-stream",)):
        answer = json.loads(llm("-m", "chitchat", *stream, "--schema", json.dumps(schema), "A pet"))
        assert isinstance(answer["age"], int)
        assert isinstance(answer["dog"], bool)
    assert "age" in json.loads(llm("-m", "chitchat", "--schema", "age int, dog bool", "A pet"))


@check
def tools() -> None:
    llm("-m", "chitchat", "-T", "llm_version", "-o", "seed", "7", "Which version?")


@check
def errors() -> None:
    assert "the prompt is too long" in llm("-m", "chitchat", LONG, fails=True)
    write_models(URL, f"- model_id: missing\n  model_name: gpt-5\n  api_base: {URL}\n")
    assert "there is no model gpt-5" in llm("-m", "missing", "Hello", fails=True)
    write_models(LOCKED_URL)
    assert "this server needs a key" in llm("-m", "chitchat", "Hello", fails=True)


@check
def keys() -> None:
    write_models(LOCKED_URL, "  api_key_name: convmodel\n")
    llm("keys", "set", "convmodel", "--value", KEY)
    llm("-m", "chitchat", "Hello")


write_models(URL)
main()
