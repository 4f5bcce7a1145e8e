"""`make client-check`: its list of clients, and that what fails is reported."""

import importlib
import re
import sys
from contextlib import nullcontext
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PROGRAM = """
import json
for name, problem in {results}:
    print(json.dumps({{"check": name, "problem": problem, "seconds": 1}}))
{end}
"""


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The script, with checks and examples from a folder, and without installations."""
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    script = importlib.import_module("check_clients")
    monkeypatch.setattr(script, "CHECKS", tmp_path)
    monkeypatch.setattr(script, "EXAMPLES", tmp_path)
    monkeypatch.setattr(script, "install", lambda client, folder: sys.executable)
    return script


def write(folder: Path, results: list[tuple[str, str]], end: str = "") -> None:
    (folder / "with_one.py").write_text(PROGRAM.format(results=results, end=end), encoding="utf-8")


def outcome(script: ModuleType, folder: Path, example: str | None = None) -> Any:
    client = script.Client("One", ["one==1"], "with_one.py", example)
    return script.check_client(client, folder, ["http://127.0.0.1:9/v1", "http://127.0.0.1:9/v1", "key"])


def test_results_are_collected(script: ModuleType, tmp_path: Path) -> None:
    write(tmp_path, [("chat", ""), ("errors", "Traceback")])
    result = outcome(script, tmp_path)
    assert (result.passed, result.problems) == (["chat"], {"errors": "Traceback"})
    [_, _, row] = script.table({"one": script.Client("One", ["one==1"], "with_one.py")}, {"one": result}).splitlines()
    assert row.startswith("| One | one==1 | chat | errors | ")


@pytest.mark.parametrize(
    ("results", "end", "problem"),
    [([], "", "no check ran"), ([("chat", "")], "raise SystemExit('broken')", "broken")],
)
def test_a_program_that_does_not_check_fails(
    script: ModuleType, tmp_path: Path, results: list[tuple[str, str]], end: str, problem: str
) -> None:
    write(tmp_path, results, end)
    assert problem in outcome(script, tmp_path).problems["run"]


def test_a_program_that_cannot_run_fails(script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(script, "install", lambda client, folder: str(tmp_path / "npm"))
    write(tmp_path, [("chat", "")])
    assert "No such file" in outcome(script, tmp_path).problems["run"]


def test_the_folder_of_the_environments_may_be_relative(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders: list[Path] = []
    monkeypatch.setattr(script, "serving", lambda *_: nullcontext("http://127.0.0.1:9"))
    monkeypatch.setattr(script, "read_clients", lambda: {"one": script.Client("One", [], "with_one.py")})
    monkeypatch.setattr(script, "check_client", lambda _, folder, __: folders.append(folder) or script.Outcome())
    monkeypatch.setattr(sys, "argv", ["check_clients.py", "--keep", "clients"])
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit):
        script.main()
    assert folders == [tmp_path / "clients/one"]


def test_an_example_runs_with_the_address_of_the_server(script: ModuleType, tmp_path: Path) -> None:
    write(tmp_path, [("chat", "")])
    (tmp_path / "example.py").write_text("assert 'http://127.0.0.1:8000/v1'.endswith(':9/v1')\n", encoding="utf-8")
    assert outcome(script, tmp_path, "example.py").passed == ["example", "chat"]
    (tmp_path / "example.py").write_text("exit('http://127.0.0.1:8000 is broken')\n", encoding="utf-8")
    assert "http://127.0.0.1:9 is broken" in outcome(script, tmp_path, "example.py").problems["run"]


@pytest.mark.parametrize(("problem", "code"), [("", 0), ("Traceback", 1)])
def test_the_exit_code_says_whether_anything_failed(
    script: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, problem: str, code: int
) -> None:
    write(tmp_path, [("chat", problem)])
    (tmp_path / "clients.toml").write_text(
        '[one]\ntitle = "One"\npackages = []\ncheck = "with_one.py"\n', encoding="utf-8"
    )
    monkeypatch.setattr(script, "serving", lambda *_: nullcontext("http://127.0.0.1:9"))
    monkeypatch.setattr(sys, "argv", ["check_clients.py", "--keep", str(tmp_path)])
    (tmp_path / "one").mkdir()
    with pytest.raises(SystemExit) as caught:
        script.main()
    assert caught.value.code == code


def test_every_program_is_a_clients_and_on_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "scripts"))
    clients = importlib.import_module("check_clients").read_clients().values()
    assert {client.check for client in clients} == {path.name for path in (ROOT / "tests/clients").glob("with_*")}
    page = (ROOT / "docs/clients.md").read_text(encoding="utf-8")
    shown = {*re.findall("<!-- from examples/clients/(.+) -->", page)}
    assert shown == {path.name for path in (ROOT / "examples/clients").iterdir()}
    # `llm` has a file instead of a program, which its check reads.
    assert shown - {client.example for client in clients} == {"extra-openai-models.yaml"}


def test_the_client_of_make_test_has_the_version_of_client_check() -> None:
    [checked] = re.findall(
        r"pydantic-ai-slim\[openai\]==([\d.]+)", (ROOT / "tests/clients/clients.toml").read_text(encoding="utf-8")
    )
    assert f"pydantic-ai-slim=={checked}\n" in (ROOT / "constraints.txt").read_text(encoding="utf-8")
