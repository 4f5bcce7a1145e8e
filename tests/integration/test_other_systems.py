"""Windows and macOS, as far as Linux can simulate them, and consoles that cannot write every character.

What those systems lack is taken away by `tests/other_system.py`; docs/other-machines.md lists what was run where.
"""

import ast
import json
import multiprocessing
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from convmodel.data.windows.workers import IN_THIS_PROCESS, in_processes
from convmodel.server.run import listen

TESTS = Path(__file__).parents[1]
SOURCES = sorted((TESTS.parent / "src/convmodel").rglob("*.py"))

WITH_RETURNS = {"config.json", "generation_config.json", "tokenizer_config.json"}
"""The files of a model that transformers writes, on Windows with a carriage return before each line feed."""

SESSION = """
import io, json, signal, sys, threading, time, urllib.request
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import other_system

other_system.become(sys.argv[1])
from convmodel.cli.main import main
from convmodel.data.windows import store
from convmodel.files.atomic import remove_folder, replace_text, staged_folder

store.SMALL = 4  # so that windows are encoded by workers, and kept on disk


def run(*arguments, typed=""):
    out, err = io.TextIOWrapper(io.BytesIO(), encoding="utf-8"), io.TextIOWrapper(io.BytesIO(), encoding="utf-8")
    sys.argv, sys.stdin = ["convmodel", *arguments], io.TextIOWrapper(io.BytesIO(typed.encode()), encoding="utf-8")
    status = 0
    with redirect_stdout(out), redirect_stderr(err):
        try:
            main()
        except SystemExit as end:
            status = end.code or 0
        out.flush(), err.flush()
    return {"status": status, "out": out.buffer.getvalue().decode(), "err": err.buffer.getvalue().decode()}


port, results = sys.argv[2], {}
results["import"] = run("import", "chat.txt", "--me", "Ann", "--output", "data", "--split", "1,0,0")
fit = ["fit", "train.jsonl", "--valid", "valid.jsonl", "--model", "builtin:chitchat", "--output-dir", "model"]
results["fit"] = run(*fit, "--max-steps", "2", "--save-steps", "1")
results["again"] = run(*fit, "--max-steps", "1", "--overwrite")
results["generate"] = run("generate", "Hi", "--model", "model", "--max-new-tokens", "4")
results["chat"] = run("chat", "--model", "model", "--greedy", "--max-new-tokens", "4", typed="Hi \\U0001f600\\n")
results["doctor"] = run("doctor", "model", "train.jsonl", "--no-estimate")


def wait_for_server():
    for _ in range(300):
        time.sleep(0.1)
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/ready", timeout=5) as response:
                results["ready"] = response.status
                break
        except OSError:
            pass
    signal.raise_signal(signal.SIGINT)


thread = threading.Thread(target=wait_for_server)
thread.start()
results["serve"] = run("serve", "model", "--port", port)
thread.join()

Path("report.html").write_text("old")
replace_text(Path("report.html"), "new\\n")
for text in ("one", "two"):
    with staged_folder("staged") as stage:
        (stage / "file").write_text(text)
results["staged"] = Path("staged/file").read_text()
remove_folder(Path("staged"))
results["left"] = sorted(path.name for path in Path().iterdir())
Path("results.json").write_text(json.dumps(results))
"""


def free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@pytest.fixture(scope="module", params=["win32", "darwin"])
def session(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Results of the commands in a process of another system, in a folder of their own."""
    folder = tmp_path_factory.mktemp(request.param)
    talk = {"turns": ["Hi", "Hello there, how are you?", "Fine \U0001f600, and you?"]}
    for name, count in (("train", 20), ("valid", 6)):
        (folder / f"{name}.jsonl").write_text(f"{json.dumps(talk)}\n" * count, encoding="utf-8")
    lines = [f"{'Ann' if number % 2 else 'Bob'}: message number {number} \U0001f600" for number in range(60)]
    (folder / "chat.txt").write_text("\r\n".join(lines), encoding="utf-8")
    environment = os.environ | {"PYTHONPATH": str(TESTS), "CONVMODEL_CACHE": str(folder / "cache")}
    done = subprocess.run(
        [sys.executable, "-c", SESSION, request.param, str(free_port())],
        cwd=folder, env=environment, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    results: dict[str, Any] = json.loads((folder / "results.json").read_text())
    return results | {"folder": folder, "system": request.param}


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("command", ["import", "fit", "again", "generate", "chat", "doctor", "serve"])
def test_commands_work_without_what_other_systems_lack(session: dict[str, Any], command: str) -> None:
    result = session[command]
    assert result["status"] == 0, result["err"]
    assert "Traceback" not in result["err"]
    if command in ("generate", "chat"):
        assert result["out"].strip()


@pytest.mark.slow
def test_a_server_answers_and_stops_there(session: dict[str, Any]) -> None:
    assert session["ready"] == 200


@pytest.mark.slow
def test_what_convmodel_writes_there_has_line_feeds_alone_and_leaves_nothing_behind(session: dict[str, Any]) -> None:
    folder: Path = session["folder"]
    assert session["staged"] == "two"
    assert "staged" not in session["left"]
    assert not list(folder.rglob(".convmodel-*"))
    written = [path for path in (folder / "model").iterdir() if path.suffix in (".json", ".jsonl", ".md")]
    assert written
    returns = {path.name for path in [*written, *(folder / "data").iterdir()] if b"\r" in path.read_bytes()}
    assert returns == (WITH_RETURNS if session["system"] == "win32" else set())


def text_options(call: ast.Call) -> tuple[str, ...]:
    """Returns the options that a call needs if it reads or writes a text file."""
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    if name in ("read_text", "write_text") and isinstance(call.func, ast.Attribute):
        return ("encoding",) if name == "read_text" else ("encoding", "newline")
    if name not in ("open", "fdopen", "NamedTemporaryFile"):
        return ()
    values = [*call.args, *(keyword.value for keyword in call.keywords if keyword.arg == "mode")]
    constants = {str(value.value) for value in values if isinstance(value, ast.Constant)}
    modes = [set(text) for text in constants if text and set(text) <= set("rwaxbt+")]
    return ("encoding", "newline") if any(mode & set("wax") and "b" not in mode for mode in modes) else ()


@pytest.mark.parametrize(
    ("call", "options"),
    [
        ("path.read_text()", ("encoding",)),
        ("path.write_text(text)", ("encoding", "newline")),
        ("path.open('a')", ("encoding", "newline")),
        ("open(path, mode='w')", ("encoding", "newline")),
        ("os.fdopen(descriptor, 'w')", ("encoding", "newline")),
        ("NamedTemporaryFile('w+', delete=False)", ("encoding", "newline")),
        ("NamedTemporaryFile(dir=folder)", ()),
        ("path.open('wb')", ()),
        ("path.open()", ()),
    ],
)
def test_calls_that_need_options_for_text_are_recognized(call: str, options: tuple[str, ...]) -> None:
    [statement] = ast.parse(call).body
    assert isinstance(statement, ast.Expr)
    assert isinstance(statement.value, ast.Call)
    assert text_options(statement.value) == options


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_text_files_have_an_encoding_and_line_feeds_on_every_system(path: Path) -> None:
    """On Windows both would otherwise be the console's: CP-1252, and a carriage return before each line feed."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call):
            names = {keyword.arg for keyword in node.keywords}
            for name in text_options(node):
                assert name in names, f"{path}:{node.lineno} has no {name}"


@pytest.mark.parametrize("system", ["win32", "darwin"])
def test_items_are_worked_on_in_this_process_where_processes_are_not_forked(
    monkeypatch: pytest.MonkeyPatch, system: str
) -> None:
    monkeypatch.setattr(sys, "platform", system)
    monkeypatch.setattr(multiprocessing, "get_context", lambda _: pytest.fail("processes were started"))
    own = os.getpid()
    items = range(3 * IN_THIS_PROCESS)
    assert [*in_processes(lambda item: (item, os.getpid()), items, 2)] == [(item, own) for item in items]


def test_a_second_server_on_a_port_of_windows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """There, SO_REUSEADDR lets two servers share a port; SO_EXCLUSIVEADDRUSE, which Linux lacks, does not."""
    options: list[int] = []
    real = socket.socket.setsockopt

    class Recording(socket.socket):
        def setsockopt(self, *arguments: Any) -> None:
            options.append(arguments[1])
            real(self, arguments[0], socket.SO_REUSEADDR, arguments[2])

    monkeypatch.setattr(socket, "SO_EXCLUSIVEADDRUSE", -5, raising=False)
    monkeypatch.setattr(socket, "socket", Recording)
    listen("127.0.0.1", 0).close()
    assert options == [-5]


CP1252 = {"PYTHONIOENCODING": "cp1252"}
C_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
CHAT = ("chat", "--model", "builtin:chitchat", "--greedy", "--max-new-tokens", "4")


def in_console(
    arguments: Sequence[str], variables: dict[str, str], typed: str = ""
) -> subprocess.CompletedProcess[bytes]:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONUTF8", "PYTHONIOENCODING")}
    return subprocess.run(
        [sys.executable, "-m", "convmodel", *arguments],
        input=typed.encode(), env=environment | variables, capture_output=True, timeout=200, check=False,
    )  # fmt: skip


@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("variables", [CP1252, C_LOCALE], ids=["cp1252", "C"])
@pytest.mark.parametrize(
    "arguments", [CHAT, ("doctor", "builtin:chitchat"), ("evaluate", "--help")], ids=lambda arguments: arguments[0]
)
def test_no_character_ends_a_command(arguments: tuple[str, ...], variables: dict[str, str]) -> None:
    done = in_console(arguments, variables, typed="Hi \U0001f600\n/history\n")
    assert done.returncode == 0, done.stderr
    assert b"Error" not in done.stderr
    assert done.stdout.strip()


@pytest.mark.long
def test_json_on_a_console_without_the_character_is_escaped_not_replaced() -> None:
    done = in_console(("doctor", "builtin:chitchat", "--json"), CP1252)
    windows = json.loads(done.stdout.decode("cp1252"))["windows"]
    assert "?" not in {token["text"] for token in windows[0]} - {"?"}
    assert b"\\u00b7" in done.stdout  # the mark of a space
