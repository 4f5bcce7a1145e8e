"""`convmodel chat` with a local model; chats with a server are in test_remote_session_cli.py."""

import json
import os
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from prompt_toolkit.application import create_app_session
from prompt_toolkit.input import create_pipe_input
from prompt_toolkit.output import DummyOutput
from typer.testing import CliRunner

from convmodel.cli.chat import Chat
from convmodel.cli.main import app
from convmodel.errors import ConfigError

Run = Callable[..., int]
Typed = Callable[..., tuple[list[str], str]]


@pytest.fixture
def typed(reader_folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Typed]:
    """Types at a terminal of `convmodel chat`, and returns the lines of standard output, and standard error."""
    with create_pipe_input() as keys, create_app_session(input=keys):

        def typed(text: str, *arguments: str) -> tuple[list[str], str]:
            keys.send_text(text)
            result = CliRunner().invoke(app, ["chat", "--greedy", *arguments], catch_exceptions=False)
            assert result.exit_code == 0
            return result.stdout.splitlines(), result.stderr

        monkeypatch.setattr("convmodel.cli.chat.is_terminal", lambda: True)
        monkeypatch.setattr("convmodel.cli.line_editor._terminal_output", DummyOutput)
        yield typed


def test_chat_answers_each_line_of_its_input(reader_folder: Path) -> None:
    result = CliRunner().invoke(app, ["chat", "--greedy"], input="Hello\nGood thank you\n")

    assert result.exit_code == 0
    assert result.stdout.splitlines() == ["How are you", "Glad to hear it"]


def test_chat_obeys_its_commands(reader_folder: Path) -> None:
    lines = ["/undo", "Hello", "/retry", "/save said.jsonl", "/undo", "/save said.jsonl", "/help", "/savee", "Hi"]

    result = CliRunner().invoke(app, ["chat", "--greedy"], input="\n".join([*lines, "/reset", "/quit", "Hello"]))

    assert result.stdout.splitlines() == ["How are you", "How are you", "Hi there"]
    assert "no turn to take back" in result.stderr
    assert "/save FILE" in result.stderr
    assert "there is no command /savee: did you mean /save?" in result.stderr
    assert "nothing to save yet" in result.stderr
    saved = json.loads(Path("said.jsonl").read_text())
    assert saved["turns"] == ["Hello", "How are you"]


@pytest.mark.slow
def test_a_saved_conversation_can_be_learned_from(reader_folder: Path, run: Run) -> None:
    CliRunner().invoke(app, ["chat", "--greedy"], input="Hello\n/save said.jsonl\n")

    assert run("fit", "said.jsonl", "-m", "model", "--output-dir", "new", "--max-steps", "1") == 0


def test_chat_survives_an_interrupted_response(
    reader_folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    from convmodel.cli.chat import Chat
    from convmodel.model import ConversationModel

    session = ConversationModel.from_pretrained("model").session(do_sample=False)
    chat = Chat(session, "model", lambda name: session)
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


def test_what_is_interrupted_or_cannot_be_saved_does_not_end_a_chat(
    typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(self: Chat, name: str) -> None:
        raise KeyboardInterrupt

    def no_home(self: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    def save(self: Chat, file: str) -> None:
        with monkeypatch.context() as patch:
            patch.setattr("pathlib.Path.expanduser", no_home)
            kept(self, file)

    kept = Chat._save
    monkeypatch.setattr(Chat, "_save", save)
    monkeypatch.setattr(Chat, "_change_model", interrupted)
    output, messages = typed("Hello\r/model large\r/save ~nobody/x.jsonl\rGood thank you\r\x04")

    assert output == ["How are you", "Glad to hear it"]
    assert "(Ctrl+D or /quit to quit)" in messages
    assert "~nobody/x.jsonl: its home folder does not exist" in messages


def test_a_model_that_was_not_written_yet(
    run: Run,
    capfd: pytest.CaptureFixture[str],
    tmp_path_factory: pytest.TempPathFactory,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path_factory.mktemp("empty"))

    assert run("chat", "--model", "model") == 1

    assert "`convmodel fit` writes one; builtin:chitchat needs none" in " ".join(capfd.readouterr().err.split())


@pytest.mark.parametrize("leave", ["/quit", "/exit", "/bye", "quit\r", "Exit\ry", "\x04"])
def test_ways_to_quit_at_a_terminal(typed: Typed, leave: str) -> None:
    output, _ = typed(f"Hello\r{leave}\rHello\r")

    assert output == ["How are you"]


def test_quit_may_be_a_turn(typed: Typed) -> None:
    output, _ = typed("quit\rn\r\x04")

    assert len(output) == 1


def test_pasted_lines_are_one_turn(typed: Typed) -> None:
    _, messages = typed("\x1b[200~Hello\nHello\n\x1b[201~\r/undo\r\x04")

    assert "removed: Hello\nHello\n" in messages


@pytest.mark.slow
def test_what_is_typed_is_kept_unless_it_must_not_be(
    typed: Typed, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    file = tmp_path / "state/convmodel/chat_history"
    typed("Hello\r\x04", "--no-history")
    assert not file.exists()

    typed("Hello\r\x04")
    assert typed("\x1b[A\r\x04")[0] == ["How are you"]

    file.chmod(0o600)
    file.parent.rename(tmp_path / "moved")
    file.parent.write_text("a file in the place of the folder")
    output, messages = typed("Hello\r\x04")
    assert output == ["How are you"]
    assert "what you type is not kept" in messages


def test_options_of_a_running_chat(reader_folder: Path) -> None:
    lines = ["/set", "/set max_new_tokens 1", "Hello", "/set max_new_tokens", "/set temperature 0.5", "/set"]
    lines += ["/set temprature", "/set reply_as", "/set temprature null", "/set temprature 1"]
    lines += ["/set max_new_tokens none", "/set max_new_tokens null", "/retry", "/set reply_as x"]

    result = CliRunner().invoke(app, ["chat", "--greedy"], input="\n".join(lines))

    assert result.stdout.splitlines()[0] == "How"
    unknown = next(line for line in result.stderr.splitlines() if "is called temprature" in line)
    assert unknown.endswith("; did you mean temperature?")
    assert result.stderr.splitlines() == [
        "temperature (not set)",
        "top_p (not set)",
        "top_k (not set)",
        "max_new_tokens 32",
        "repetition_penalty 1.0",
        "do_sample false",
        "seed (not set)",
        "candidates 1",
        "max_new_tokens is 1",
        "(stopped at the length limit: /set max_new_tokens NUMBER changes it)",
        "max_new_tokens 1",
        "temperature is 0.5",
        "temperature 0.5",
        "top_p 1.0",
        "top_k 0",
        "max_new_tokens 1",
        "repetition_penalty 1.0",
        "do_sample true",
        "seed (not set)",
        "candidates 1",
        unknown,
        "reply_as (not set)",
        unknown,
        unknown,
        "max_new_tokens is 'none': it must be a whole number of at least 1",
        "max_new_tokens is null",
        "reply_as cannot change within a session: open another one",
    ]


@pytest.mark.slow
def test_a_system_message_on_a_model_that_never_saw_one(run: Run, reader_folder: Path) -> None:
    refused = "trained without system messages and would read one as an ordinary turn"
    result = CliRunner().invoke(app, ["chat"], input="/system Be kind.\n/system\n")
    assert refused in result.stderr
    assert "there is no system message" in result.stderr

    with pytest.raises(ConfigError, match=f"--system does not suit this model, .*{refused}: leave it out, or start"):
        CliRunner().invoke(app, ["chat", "--system", "Be kind."], input="Hello\n", catch_exceptions=False)

    lines = ["Hello", "/system Be kind.", "/system", "/undo", "/reset", "Hello", "/save said.jsonl", "/system"]
    chat = ["chat", "--greedy", "--system", "Be rude.", "--system-messages"]
    result = CliRunner().invoke(app, chat, input="\n".join(lines))
    assert result.stderr.splitlines().count("Be kind.") == 2
    saved = json.loads(Path("said.jsonl").read_text())
    assert (saved["speakers"], saved["turns"][:2]) == (["system", "user", "assistant"], ["Be kind.", "Hello"])


@pytest.mark.slow
def test_a_chat_continues_with_another_model(reader_folder: Path) -> None:
    lines = [
        "Hello",
        "/model gpt2",
        "/model",
        "/model no/such/model",
        "/model model",
        "Good thank you",
        "/save s.jsonl",
    ]

    result = CliRunner().invoke(app, ["chat", "--greedy"], input="\n".join(lines))

    assert result.stdout.splitlines() == ["How are you", "Glad to hear it"]
    assert "the model is gpt2" in result.stderr
    assert "no/such/model" in result.stderr
    saved = json.loads(Path("s.jsonl").read_text())
    assert saved["turns"] == ["Hello", "How are you", "Good thank you", "Glad to hear it"]


def test_tab_completes_commands_and_options(reader_folder: Path) -> None:
    from convmodel.cli.chat import Chat
    from convmodel.model import ConversationModel

    chat = Chat(ConversationModel.from_pretrained("model").session(num_beams=2), "model", lambda name: chat.session)

    assert [*chat._complete("/s")] == ["/system", "/set", "/save"]
    assert [*chat._complete("/e")] == ["/exit"]
    assert [*chat._complete("/set t")] == ["/set temperature", "/set top_p", "/set top_k"]
    assert [*chat._complete("/set n")] == ["/set num_beams"]
    assert [*chat._complete("")] == [*chat._complete("Hello")] == [*chat._complete("/save t")] == []


@pytest.mark.long
@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no pseudo-terminals")
@pytest.mark.parametrize("columns", [80, 100])
def test_a_real_terminal(reader_folder: Path, columns: int) -> None:
    import fcntl
    import pty
    import struct
    import termios

    terminal, inside = pty.openpty()
    fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    streams = {"stdin": inside, "stdout": inside, "stderr": inside}
    environment = {name: value for name, value in os.environ.items() if name not in ("COLUMNS", "LINES")}
    chat = subprocess.Popen(
        [sys.executable, "-m", "convmodel", "chat", "--greedy"],
        env=environment | {"TERM": "xterm-256color"},
        start_new_session=True,
        **streams,
    )
    written = ""

    def wait_for(text: str) -> None:
        """Waits until this is on the terminal, without the sequences that move the cursor or set colors."""
        nonlocal written
        until = time.monotonic() + 90
        while text not in written and time.monotonic() < until:
            if select.select([terminal], [], [], 1)[0]:
                data = os.read(terminal, 65536).decode()
                written += re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", data).replace("\r", "")
        assert text in written
        written = written[written.index(text) + len(text) :]

    try:
        wait_for("Chatting with model. /help lists the commands, Ctrl+D quits.\n")
        wait_for("0 >")
        os.write(terminal, b"Helo\x1b[Dl\r")
        wait_for("How are you\n")
        wait_for("2 >")
        os.write(terminal, b"quit\r")
        wait_for("Quit? [Y/n]")
        os.write(terminal, b"\r")
        assert chat.wait(30) == 0
    finally:
        if chat.poll() is None:
            os.kill(chat.pid, signal.SIGKILL)
            chat.wait()
        os.close(inside)
        os.close(terminal)


class Leaving:
    """A line editor whose user leaves at once."""

    def __init__(self, *_: object) -> None: ...

    def read(self, turns: int) -> str:
        raise EOFError


@pytest.mark.parametrize("name", ["builtin:chitchat", "model"])
def test_the_built_in_model_says_what_it_is(
    name: str, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("convmodel.cli.chat.is_terminal", lambda: True)
    monkeypatch.setattr("convmodel.cli.chat.LineEditor", Leaving)
    session: Any = SimpleNamespace(turns=[], left_out=0)
    Chat(session, name, lambda _: session).begin(None, None)
    err = capfd.readouterr().err
    assert f"Chatting with {name}." in err
    assert ("a toy for small talk" in err) is (name == "builtin:chitchat")
