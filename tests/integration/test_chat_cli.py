"""`convmodel chat` with a local model; chats with a server are in test_remote_session_cli.py."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from convmodel.cli.main import app

Run = Callable[..., int]


def test_chat_answers_each_line_of_its_input(reader_folder: Path) -> None:
    result = CliRunner().invoke(app, ["chat", "--greedy"], input="Hello\nGood thank you\n")

    assert result.exit_code == 0
    assert result.stdout.splitlines() == ["How are you", "Glad to hear it"]


def test_chat_obeys_its_commands(reader_folder: Path) -> None:
    lines = ["/undo", "Hello", "/retry", "/save said.jsonl", "/undo", "/save said.jsonl", "/help", "/nothing", "Hi"]

    result = CliRunner().invoke(app, ["chat", "--greedy"], input="\n".join([*lines, "/reset", "/quit", "Hello"]))

    assert result.stdout.splitlines() == ["How are you", "How are you", "Hi there"]
    assert "no turn to take back" in result.stderr
    assert "/save FILE" in result.stderr
    assert "there is no command /nothing" in result.stderr
    assert "nothing to save yet" in result.stderr
    saved = json.loads(Path("said.jsonl").read_text())
    assert saved["turns"] == ["Hello", "How are you"]


def test_a_saved_conversation_can_be_learned_from(reader_folder: Path, run: Run) -> None:
    CliRunner().invoke(app, ["chat", "--greedy"], input="Hello\n/save said.jsonl\n")

    assert run("fit", "said.jsonl", "-m", "model", "--output-dir", "new", "--max-steps", "1") == 0


def test_chat_survives_an_interrupted_response(
    reader_folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from convmodel.cli.chat import Chat
    from convmodel.model import ConversationModel

    session = ConversationModel.from_pretrained("model").session()
    chat = Chat(session)
    chunks = session.stream("Hello")

    def interrupted():  # type: ignore[no-untyped-def]
        try:
            yield next(chunks)
            raise KeyboardInterrupt
        finally:
            chunks.close()

    chat._print_response(interrupted())

    assert session.turns == ["Hello", "How"]
    assert "interrupted" in capfd.readouterr().err
    assert session.respond("Hi there") != ""


def test_a_model_that_was_not_written_yet(
    run: Run,
    capfd: pytest.CaptureFixture[str],
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("empty"))

    assert run("chat", "--model", "model") == 1

    assert "`convmodel fit` writes one; builtin:chitchat needs none" in " ".join(capfd.readouterr().err.split())
